"""Gives the image of an OCI archive a name: `name_image.py ARCHIVE NAME OUT`."""
import io
import json
import sys
import tarfile

source, name, out = sys.argv[1:]
with tarfile.open(source) as old, tarfile.open(out, "w") as new:
    for member in old.getmembers():
        data = old.extractfile(member).read() if member.isfile() else b""
        if member.name == "index.json":
            index = json.loads(data)
            for manifest in index["manifests"]:
                manifest.setdefault("annotations", {})["org.opencontainers.image.ref.name"] = name
            data = json.dumps(index).encode()
            member.size = len(data)
        new.addfile(member, io.BytesIO(data))
