"""What a call would destroy, for whoever confirms it.

Each public function of `structures` and `writes` tells it of one tool (`Tool.loses`). A call that the tool would refuse
is refused there by the same words: nobody is asked about what cannot be.
"""
