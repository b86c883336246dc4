"""A group of verbs whose errors are one line."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from nnunet_dino._errors import UserError, leave, nearest


class OneLineGroup(click.Group):
    """A group of verbs whose errors are one line on standard error and exit code 2."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Shows the verbs where none is given."""
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the verb; an unknown one is answered with the nearest known.

        Raises:
            UserError: There is no such verb.
        """
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            verbs = self.list_commands(ctx)
            raise UserError(f"unknown verb: required one of {', '.join(verbs)} · got {name!r}{nearest(name, verbs)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Runs a command line; the process ends here unless ``standalone_mode`` is false."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore", FutureWarning)  # torch and timm warn their own developers at import
            try:
                code = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
            except UserError as error:
                leave(error)
            except click.UsageError as error:
                asked = error.ctx.command_path if error.ctx else "nnunet-dino"
                leave(UserError(f"{error.format_message().rstrip('.')} · see `{asked} --help`"))
            except click.ClickException as error:
                leave(UserError(error.format_message()))
            except click.Abort as error:
                if isinstance(error.__cause__, EOFError):  # click takes it for a closed terminal; it is a file that ends early
                    raise error.__cause__ from None
                print("nnunet-dino: interrupted", file=sys.stderr)
                code = 130
        sys.exit(code if isinstance(code, int) else 0)
