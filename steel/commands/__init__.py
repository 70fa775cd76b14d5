"""The subcommands of `steel`: their options, and what runs them."""
