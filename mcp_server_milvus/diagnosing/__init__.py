"""Why a search finds nothing, or the wrong things: one file for each thing that can be the reason."""
