"""Where threads and coroutines meet: the event loop, threads for what blocks, and gates to wait at."""
