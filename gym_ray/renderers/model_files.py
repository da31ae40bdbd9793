"""Where the files of a model are: in a folder, in the Hub's cache, or on the Hub.

Owned here: telling, before anything is loaded, that they are nowhere. The libraries that load them
ask the Hub file by file and try each again for half a minute; here it is asked once, and once more.
Not owned here: loading, and `bundled:NAME`, which the policies turn into a folder.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from gym_ray.errors import ConfigError, one_line

#: A model's name on the Hub, by the Hub's own rules.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")

#: Which every model on the Hub has, or says that it has not.
_ASKED_FILE = "config.json"

#: How long the Hub may take for an answer, and how long to wait before it is asked again.
_ANSWER_SECONDS = 3.0
_PAUSE_SECONDS = 0.3

#: Endings that make a name a path and not a model on the Hub.
_PATH_STARTS = ("/", "./", "../", "~", ".\\", "..\\")


def require_model(
    model: str,
    *,
    key: str = "policy.model",
    needs: Sequence[Sequence[str]] = (),
    revision: str | None = None,
) -> None:
    """Refuse a model whose files cannot be had.

    Args:
        model: a folder, or a name on the Hub. Other addresses (`s3://…`) are the engine's to read.
        key: where it was named, for the message.
        needs: patterns of files of which a folder has to hold at least one each.
        revision: branch, tag or commit on the Hub.

    Raises:
        ConfigError: there is no such folder, it holds no checkpoint, or the Hub has no such model,
            or cannot be reached and its cache has none.
    """
    path = Path(model)
    if "://" in model or path.is_file():  # Engines of their own read such files.
        return
    if path.is_dir():
        _require_files(path, key, model, needs)
    elif model.startswith(_PATH_STARTS) or model in (".", "..") or model.count("/") > 1:
        raise ConfigError(f"{key} {model!r} is not a directory{_nearest_folder(model)}")
    elif not _HUB_NAME.fullmatch(model):
        raise ConfigError(
            f"{key} {model!r} is neither a folder here nor a name that a model on the Hugging Face "
            "Hub may have, such as Qwen/Qwen3-0.6B"
        )
    elif os.environ.get("VLLM_USE_MODELSCOPE", "0").lower() not in ("1", "true"):
        _require_on_hub(model, key, revision)


def _require_files(folder: Path, key: str, model: str, needs: Sequence[Sequence[str]]) -> None:
    for patterns in needs:
        if any(next(folder.glob(pattern), None) for pattern in patterns):
            continue
        inside = sorted(
            found.name
            for found in folder.iterdir()
            if found.is_dir() and any(next(found.glob(pattern), None) for pattern in patterns)
        )
        hint = f"; did you mean {str(folder / inside[-1])!r}?" if inside else ""
        raise ConfigError(
            f"{key} {model!r}: the folder holds no checkpoint: there is no "
            f"{' nor '.join(patterns)} in it{hint}"
        )


def _nearest_folder(model: str) -> str:
    """What may have been meant, as the end of a sentence."""
    path = Path(model)
    if model.startswith("~"):
        whole = path.expanduser()
        return f"; write {str(whole)!r}: ~ stands for no folder in a config"
    try:
        beside = [found.name for found in path.parent.iterdir() if found.is_dir()]
    except OSError:
        return ""
    nearest = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean {str(path.parent / nearest[0])!r}?" if nearest else ""


def _require_on_hub(model: str, key: str, revision: str | None) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub
    from huggingface_hub import try_to_load_from_cache as cached

    if cached(model, _ASKED_FILE, revision=revision) is not None:
        return
    nowhere = f"{key} {model!r} is no folder here and not in the Hub's cache"
    if constants.is_offline_mode():
        raise ConfigError(
            f"{nowhere} ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE is set; unset it, or name "
            "a folder that holds the model"
        )
    url = hf_hub_url(model, _ASKED_FILE, revision=revision)
    for is_last in (False, True):
        try:
            get_hf_file_metadata(url, timeout=_ANSWER_SECONDS)
            return
        except hub.GatedRepoError:
            raise ConfigError(
                f"{key} {model!r} is gated: accept its terms on its page on the Hub, and set "
                "HF_TOKEN to a token of that account"
            ) from None
        except hub.RepositoryNotFoundError:
            raise ConfigError(
                f"{key} {model!r} is no folder here, and the Hub has no such model; for one that "
                "is private, set HF_TOKEN"
            ) from None
        except hub.RevisionNotFoundError:
            raise ConfigError(
                f"{key} {model!r}: the Hub has no revision {revision!r} of it"
            ) from None
        except (hub.EntryNotFoundError, hub.FileMetadataError, hub.HfHubHTTPError):
            # It is there without this file, or the Hub answers and is not well: others' to tell.
            return
        except Exception as error:
            if is_last:
                raise ConfigError(
                    f"{nowhere}, and {constants.ENDPOINT} cannot be reached "
                    f"({one_line(error, 120)}); name a folder that holds the model, "
                    "bundled:smollm2-135m, or mend the network"
                ) from None
            time.sleep(_PAUSE_SECONDS)
