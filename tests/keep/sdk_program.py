"""Run in a process of its own: what the Arvados SDK writes and reads. It answers in JSON.

``write NAME DIR``: the files and folders below DIR as a collection. ``read ID``: every path of a collection.
"""

import hashlib
import json
import os
import sys
from typing import Any

import arvados
import arvados.collection

_PIECE = 1 << 20


def main() -> None:
    """The command line."""
    api = arvados.api("v1")
    command, *words = sys.argv[1:]
    commands = {"write": write, "read": lambda api, name: read(arvados.collection.Collection(name, api_client=api))}
    json.dump(commands[command](api, *words), sys.stdout)


def write(api: Any, name: str, top: str) -> dict[str, str]:
    """Make a collection. Returns its uuid, portable data hash and manifest."""
    collection = arvados.collection.Collection(api_client=api)
    for folder, folders, files in sorted(os.walk(top)):
        inside = os.path.relpath(folder, top)
        if not folders and not files and inside != ".":
            collection.mkdirs(inside)
        for file in sorted(files):
            copy(os.path.join(folder, file), collection, os.path.normpath(os.path.join(inside, file)))
    collection.save_new(name=name)
    hash_, text = collection.portable_data_hash(), collection.manifest_text(strip=True)
    return {"uuid": collection.manifest_locator(), "hash": hash_, "manifest": text}


def copy(path: str, collection: Any, target: str) -> None:
    """Write one file."""
    with open(path, "rb") as source, collection.open(target, "wb") as file:
        while piece := source.read(_PIECE):
            file.write(piece)


def read(collection: Any, prefix: str = "") -> dict[str, Any]:
    """path → size and MD5 of a file, None for a folder."""
    found: dict[str, Any] = {}
    for name in collection:
        item, path = collection[name], prefix + name
        if isinstance(item, arvados.collection.RichCollectionBase):
            found[path] = None
            found |= read(item, path + "/")
        else:
            with collection.open(name, "rb") as file:
                content = file.read()
            found[path] = [len(content), hashlib.md5(content).hexdigest()]
    return found


if __name__ == "__main__":
    main()
