"""Use cases: what a command or a flow calls, and other people's Python.

| command, flow        | function                  |
| -------------------- | ------------------------- |
| upload               | `engine.ingest`           |
| run, backfill        | `engine.Engine`, by steps |
| migrate              | `shards.begin_migration`  |
| migrate-shard        | `shards.shard_engine`     |
| verify               | `verification.verify`     |
| report               | `records.report_again`    |

Before `run` and `migrate` start Prefect, `preflight.check` finds what is wrong.
"""
