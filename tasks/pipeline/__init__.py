"""The platform's pipeline: objects of the bucket, read, validated and registered over DICOMweb.

    object_sources.py      which objects: a list of keys, event messages; a listing is the bucket's own
    object_batches.py      what other threads may ask: a batch of objects, to their end
    registrar.py           the way of one object, from top to bottom
    object_reader.py       an object's bytes: held, or streamed, hashed and looked at as they pass
    stream_window.py       what is kept of a stream, for who looks at it from element to element
    dciodvfy.py            a second opinion, to warn
    store_requests.py      the way of one STOW-RS request: of one study, asked before it is repeated
    afterwards.py          what is done with an object that has its outcome: left, tagged, moved
    held_room.py uid_locks.py   who waits for room, and for another of the same UID

One event loop owns all that is under way; boto3 blocks, so it works in reader threads; the ledger's writer
commits for all who wait.
"""
