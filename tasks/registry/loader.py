"""Loads a checkpoint that MLflow knows by reference and generates text with it.

A copy of this file travels with every registered model, so that it loads wherever torch and
transformers are installed; therefore it imports nothing of mergeflow.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 22
_NEW_TOKENS = 64
_READ_SUFFIXES = (
    *(".json", ".jinja", ".model", ".txt", ".py", ".safetensors", ".bin"),
    *(".spm", ".codes", ".tiktoken", ".vocab", ".bpe", ".tokenizer"),
)
"""Of files that a library may look for in a checkpoint's directory when it loads it."""
_READ_DIRECTORIES = ("additional_chat_templates", "custom_generate")
"""Directories in a checkpoint's that transformers looks into, whatever its files say."""


class CheckpointUnavailableError(RuntimeError):
    """The registered checkpoint is not, or not unchanged, where it was registered."""


class TextGenerator:
    """A causal language model behind MLflow's `predict`."""

    def __init__(self, directory: Path, device: str | None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        safe = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(directory, **safe)
        model: Any = AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True, **safe)
        self._model = model.to(self._device).eval()

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """The continuation of each prompt, greedily unless a `temperature` above 0 is given.

        model_input: a prompt, a list of prompts, or a table whose first column holds them.
        params: `max_new_tokens` (64), `temperature` (0).
        """
        options = params or {}
        length = int(options.get("max_new_tokens") or _NEW_TOKENS)
        temperature = float(options.get("temperature") or 0.0)
        return [self._generate(prompt, length, temperature) for prompt in _prompts(model_input)]

    def _generate(self, prompt: str, length: int, temperature: float) -> str:
        tokenizer = self._tokenizer
        encoded = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        if encoded["input_ids"].shape[1] == 0:
            encoded = tokenizer(tokenizer.bos_token or " ", return_tensors="pt")
        encoded = encoded.to(self._device)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {}
        with self._torch.inference_mode():
            tokens = self._model.generate(
                **encoded,
                max_new_tokens=length,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                **(sampling or {"do_sample": False}),
            )
        return str(
            tokenizer.decode(tokens[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True)
        )


def check_files(record: dict[str, Any], verify: str) -> None:
    """Compare a checkpoint directory with its record.

    verify: `sizes` (presence and size of every file, and none that came later and could change
        what is loaded), `digests` (sha256 as well: reads all weights), or `none`.

    Raises:
        CheckpointUnavailableError: naming the first file that is missing, changed, or more.
    """
    if verify not in ("sizes", "digests", "none"):
        raise ValueError(f"verify is '{verify}', but must be one of: sizes, digests, none")
    directory = Path(record["path"])
    if not directory.is_dir():
        raise _unavailable(record, "the directory does not exist on this machine")
    if verify == "none":
        return
    extra = _extra_files(record)
    if extra:
        raise _unavailable(record, f"the file {_shown(extra[0])} there was not registered")
    for file in record["files"]:
        path = directory / file["name"]
        if not path.is_file():
            raise _unavailable(record, f"the file {file['name']} is missing")
        if record.get("stored") and path.is_symlink():
            raise _unavailable(record, f"{file['name']} is a link")
        size = path.stat().st_size
        if size != file["size"]:
            raise _unavailable(
                record, f"{file['name']} has {size} bytes, {file['size']} were registered"
            )
        if verify == "digests" and _sha256(path) != file["sha256"]:
            raise _unavailable(record, f"the content of {file['name']} has changed")


def files_beside(directory: Path, listed: Collection[str], stored: bool) -> list[str]:
    """Names of the files of a checkpoint's directory that are not among those listed.

    stored: it lies in mergeflow's store, where nothing else has a place: whatever is below it
        counts. In a directory of the user's own only what a library could look for does.
    """
    found = [path.relative_to(directory).as_posix() for path in _files_below(directory, stored)]
    if not stored:
        places = {name.rpartition("/")[0] for name in (*listed, *_in_read_directories())}
        found = [
            name
            for name in found
            if name.rpartition("/")[0] in places and name.endswith(_READ_SUFFIXES)
        ]
    return sorted(set(found) - set(listed))


def _extra_files(record: dict[str, Any]) -> list[str]:
    """Files that are there now, and neither listed nor beside those that are, back then."""
    if "beside" not in record:
        return []
    known = [*(file["name"] for file in record["files"]), *record["beside"]]
    return files_beside(Path(record["path"]), known, record["stored"])


def _files_below(directory: Path, stored: bool) -> Iterator[Path]:
    """What is no directory, however deep in the store, else as deep as a checkpoint goes."""
    for path in directory.iterdir():
        if path.is_dir() and not (stored and path.is_symlink()):
            yield from _files_below(path, stored) if stored else path.iterdir()
        else:
            yield path


def _in_read_directories() -> list[str]:
    return ["", *(f"{place}/" for place in _READ_DIRECTORIES)]


def _shown(name: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in name)


def _load_pyfunc(data_path: str, model_config: dict[str, Any] | None = None) -> TextGenerator:
    """MLflow's entry point: `data_path` is the record, `model_config` the options."""
    options = model_config or {}
    record = json.loads(Path(data_path).read_text())
    check_files(record, options.get("verify", "sizes"))
    return TextGenerator(Path(record["path"]), options.get("device"))


def _unavailable(record: dict[str, Any], what: str) -> CheckpointUnavailableError:
    return CheckpointUnavailableError(
        f"checkpoint {record['digest'][:12]} is registered at {record['path']}, but {what}.\n"
        "  what to do: restore or mount that directory, or run the pipeline that made it again: it"
        " rebuilds the same bytes"
    )


def _prompts(model_input: Any) -> list[str]:
    if isinstance(model_input, str):
        return [model_input]
    if hasattr(model_input, "columns"):
        model_input = model_input.iloc[:, 0]
    if hasattr(model_input, "tolist"):
        model_input = model_input.tolist()
    return [str(prompt) for prompt in model_input]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()
