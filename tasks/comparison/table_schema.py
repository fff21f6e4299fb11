"""What a verification's temporary database consists of."""

from typing import Final

TABLES: Final = """
CREATE TABLE instance (
    id INTEGER PRIMARY KEY, study_no INT, file_no INT, path TEXT, status TEXT, uid TEXT, study_uid TEXT,
    series_uid TEXT, key TEXT, size_bytes INT, sha256 TEXT, md5 TEXT, etag TEXT, crc64nvme TEXT,
    current_key TEXT, found_key TEXT, is_stored INT, bucket TEXT DEFAULT '', registry TEXT DEFAULT '',
    retrieved TEXT DEFAULT '', is_conflict INT DEFAULT 0, difference TEXT DEFAULT '', UNIQUE (uid, key)
);
CREATE TABLE member (study_no INT, id INT, PRIMARY KEY (study_no, id)) WITHOUT ROWID;
CREATE TABLE study (study_no INTEGER PRIMARY KEY, may_go INT);
CREATE TABLE extra (study_uid TEXT, uid TEXT, PRIMARY KEY (study_uid, uid)) WITHOUT ROWID;
CREATE TEMP TABLE listed (uid TEXT PRIMARY KEY) WITHOUT ROWID;
"""
INSERT: Final = """
INSERT OR IGNORE INTO instance (
    study_no, file_no, path, status, uid, study_uid, series_uid, key, size_bytes, sha256, md5, etag,
    crc64nvme, current_key, found_key, is_stored
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
INDICES: Final = """
CREATE INDEX by_current_key ON instance (current_key) WHERE is_stored;
CREATE INDEX by_key ON instance (found_key) WHERE is_stored;
CREATE INDEX by_study ON instance (study_uid);
DELETE FROM instance WHERE NOT is_stored AND EXISTS (
    SELECT 1 FROM instance AS other WHERE other.uid = instance.uid AND other.is_stored
);
"""
