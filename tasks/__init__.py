"""The work: load, scan, plan, upload, reconcile, report. `tasks.engine` puts it together."""
