"""The platform's pipeline: objects of the bucket, read, validated and registered over DICOMweb.

object_reader.py       an object's bytes: held, or streamed, hashed and looked at as they pass
stream_window.py       what is kept of a stream, for who looks at it from element to element
object_sources.py      which objects: a listing, event messages, a list of keys
registrar.py           the way of one object, from top to bottom
store_requests.py      the way of one STOW-RS request: of one study, asked before it is repeated
afterwards.py          what is done with an object that has its outcome: left, tagged, moved
"""
