"""The command `landmarks-jax`: one module a subcommand."""
