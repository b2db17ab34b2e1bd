"""The limit of `projector --help`: a Typer program with one command that imports nothing.

python -m benchmarks.bare_cli --help
"""

import typer


def main(name: str = "") -> None:
    """Say hello."""
    typer.echo(f"hello {name}")


if __name__ == "__main__":
    # As the product's own: without rich, which would draw the help, and without two options.
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command()(main)
    app()
