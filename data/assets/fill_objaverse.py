"""Fill a cache folder of Objaverse, for machines without network: python -m data.assets.fill_objaverse --help."""

import argparse
import sys
from pathlib import Path

from data.assets.base import AssetError, SourceError
from data.assets.objaverse import read_uids
from data.assets.objaverse_cache import FOLDER, ObjaverseCache, default_cache


def fill(cache: ObjaverseCache, uids: list[str] | None, meshes: bool) -> int:
    """Download what a listing reads and, if wanted, the meshes; returns how many meshes failed. Raises SourceError."""
    lvis = cache.lvis()
    wanted = sorted({uid for group in lvis.values() for uid in group}) if uids is None else uids
    paths = cache.object_paths()
    known = {uid: paths[uid] for uid in wanted if uid in paths}
    cache.annotations(known, ("license",))
    print(
        f"{cache.folder / FOLDER}: lists and annotations of {len(known)} objects; {len(wanted) - len(known)} not known"
    )
    if not meshes:
        return 0
    failed = 0
    for uid, object_path in known.items():
        try:
            cache.mesh(uid, object_path, None)
        except AssetError as error:
            failed += 1
            print(f"{uid}: {error}", file=sys.stderr)
    print(f"{len(known) - failed} meshes there, {failed} failed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill a cache folder of Objaverse, for machines without network.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="default: %(default)s")
    parser.add_argument("--uids", type=Path, help="file with one uid a line; default: the LVIS subset")
    parser.add_argument("--meshes", action="store_true", help="download the meshes too")
    arguments = parser.parse_args()
    try:
        uids = read_uids(arguments.uids) if arguments.uids else None
        return 1 if fill(ObjaverseCache(arguments.cache, offline=False), uids, arguments.meshes) else 0
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
