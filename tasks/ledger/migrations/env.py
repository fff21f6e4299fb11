"""What alembic runs: the connection comes from whoever upgrades."""

from alembic import context

from tasks.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
context.run_migrations()
