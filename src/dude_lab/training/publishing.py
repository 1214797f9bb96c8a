"""Upload a run's adapter, an exported adapter or a merged model to the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from dude_peft.errors import DudeError, shorten

from .finished_run import is_run, open_run
from .record import check_files, read_record

TOKEN = "HF_TOKEN"
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.gguf", "*.jinja", "*.model", "*.txt", "README.md"]
MARKS = ("adapter_config.json", "config.json")


def folder_to_push(source: Path) -> Path:
    """Return the folder to upload: that of a finished run's result, or `source` itself.

    Raises:
        DudeError: no such folder, an unfinished or damaged run, or neither an adapter nor a model.
    """
    if is_run(source):
        folder, _ = open_run(source)
        result = folder.model if folder.model.is_dir() else folder.adapter
        check_files(folder, read_record(folder), result)
        return result
    if not any((source / mark).is_file() for mark in MARKS):
        raise DudeError(f"{source}: neither a run, an adapter nor a model. Give the folder of one of them.")
    return source


def push(source: Path, repository: str, *, private: bool = True) -> str:
    """Upload a run's adapter or a model's folder in one commit, and return its address.

    The token is read from the environment (HF_TOKEN) alone, so that it stands in no history of commands.

    Args:
        source: folder of a run, an adapter or a model.
        repository: `owner/name`; it is made if it does not exist.
        private: make it visible to its owner alone. A repository that exists stays as it is.

    Raises:
        DudeError: see `folder_to_push`; no token, a name that cannot be, or what the hub answers.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    folder = folder_to_push(source)
    token = os.environ.get(TOKEN)
    if not token:
        raise DudeError(f"{TOKEN} is not set: put a token with write access into this environment variable.")
    if repository.count("/") != 1:
        raise DudeError(f"repository '{shorten(repository)}': write owner/name.")
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=PATTERNS,
            commit_message=f"Upload {folder.name} with dude-peft",
        )
    except HFValidationError as error:
        raise DudeError(f"repository '{shorten(repository)}': {shorten(error, 200)}") from None
    except OfflineModeIsEnabled:
        raise DudeError("HF_HUB_OFFLINE is set, so nothing can be uploaded: unset it.") from None
    except (HfHubHTTPError, OSError) as error:  # OSError: no connection
        raise DudeError(f"the hub did not take {repository}: {shorten(error, 300)}") from None
    return str(commit.commit_url)
