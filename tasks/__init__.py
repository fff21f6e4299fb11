"""The work: load, scan, plan, upload, reconcile, report. `tasks.run.engine` puts it together."""
