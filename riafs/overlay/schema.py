"""The overlay's tables.

node: every entry that differs from the tree below, and every directory on the way to one.
  id         never used twice; the inode number shows it
  parent     the directory's id; NULL for the top of a dataset and for what was removed while it was open
  kind       1 file, 2 symbolic link, 3 directory, 4 whiteout: the entry below is gone
  covered    what the tree below has under this name in this directory (see lower.packed); NULL: nothing
  mode       permission bits; uid, gid; atime, mtime, ctime in nanoseconds
  size       bytes of a file or of a link's target
  base       path, in the dataset's base commit, of what this was copied up from; NULL for what is new
  entry      what is there in the base commit (see lower.packed)
  based      a file's first bytes that are the base's unless an extent says otherwise; 0 when all is local
  data       number of the local data file, 0 without one; written: bytes that it has at least
  version    grows with each change of what a push would carry
extent: the local ranges of a file below `based`.
area: a dataset with changes, and the commit they lie over; `top` is its node.
checksum: see checksums.
written, since: see times; `directory` and `name` are a path in `dataset`.
setting: `layout`; `source` that it was mounted over; `boot` of the machine when it was opened last; `commits` and
  `identity`: see completeness; `numbers`: no number of a data file and no version is larger; `seen`: `commits` again,
  which a riafs that knows neither `checksum` nor `numbers` leaves as it was, so that they do not count after it.
"""

LAYOUT = 1

SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value ANY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS area (
    id INTEGER PRIMARY KEY, dataset BLOB NOT NULL UNIQUE, store TEXT NOT NULL, ref BLOB, "commit" BLOB NOT NULL,
    entrance BLOB NOT NULL, top INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS node (
    id INTEGER PRIMARY KEY, parent INTEGER, name BLOB, kind INTEGER NOT NULL, covered BLOB,
    mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    atime INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, size INTEGER NOT NULL, target BLOB,
    area INTEGER NOT NULL, base BLOB, entry BLOB, based INTEGER NOT NULL,
    data INTEGER NOT NULL, written INTEGER NOT NULL, version INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS named ON node (parent, name) WHERE parent IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS based ON node (area, base) WHERE base IS NOT NULL;
CREATE INDEX IF NOT EXISTS added ON node (parent) WHERE covered IS NULL;
CREATE INDEX IF NOT EXISTS directories ON node (parent) WHERE kind = 3;
CREATE INDEX IF NOT EXISTS removed ON node (id) WHERE parent IS NULL;
CREATE TABLE IF NOT EXISTS extent (node INTEGER, start INTEGER, "end" INTEGER, PRIMARY KEY (node, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checksum (
    data INTEGER PRIMARY KEY, length INTEGER NOT NULL, crc INTEGER NOT NULL, inode INTEGER NOT NULL,
    ctime INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS written (
    dataset BLOB, directory BLOB, name BLOB, content BLOB NOT NULL, mtime INTEGER NOT NULL,
    PRIMARY KEY (dataset, directory, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS since (dataset BLOB PRIMARY KEY, "commit" BLOB NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO setting VALUES ('layout', 1), ('checkpoints', 0), ('commits', 0), ('seen', 0);
COMMIT;
"""
