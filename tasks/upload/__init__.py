"""How bytes leave: one event loop, in which each file is a coroutine that reads from top to bottom.

    batches' threads      Uploader.upload passes files on in the plan's order, as long as there is room
                          |  EventLoop.run and .call are the only ways in
    the loop's thread     Transfer.send, once for each file under way (13 for each slot):
                              Readers.read          while fewer bytes are held than may be
                              ClaimOrder.claim      once all before it have claimed
                              AwaitedLedger.claim   durable: its SOP Instance UID is its own, or SameUid waits
                              Slots.admission       so few that a URL waits for a slot for a moment only
                              UploadClient.presign
                              AwaitedLedger.issue   durable: the key, before the first byte leaves
                              Slots.slot            one of at most `parallel`
                              UploadClient.put
                              Integrity.judge       what its answer proves of the bytes
                              AwaitedLedger.settle  durable: its outcome
    a reader              open, read, DICOM header, hashes; two of large files, four where that takes long
    the ledger's writer   commits for all who wait, and wakes the loop once
    one for each file too large to hold, while it is sent or hashed

A fault starts the way anew after a pause. A stop lets nobody in any more; PUTs get their grace, then they are
cancelled, which cuts their connection. Threads are daemons: a disk that hangs keeps no process from its end.
"""
