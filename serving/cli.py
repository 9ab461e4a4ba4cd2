"""`counterforge serve`, and the keys of those who may ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(invoke_without_command=True, help="Serve the champion: a web page for people, an API for programs.")
keys = typer.Typer(no_args_is_help=True, help="API keys of the service.")
app.add_typer(keys, name="keys")

Data = Annotated[Path, typer.Option("--data", help="Folder of jobs, feedback, keys and kept uploads.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_DATA = Path("serving-data")


@app.callback()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; others than this machine need keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Alias to follow, version, or folder.")] = None,
    shadow: Annotated[str | None, typer.Option(help="Alias of a model to score in shadow, such as challenger.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of jobs, feedback, keys and uploads.")] = None,
    mlruns: Annotated[Path | None, typer.Option("--mlruns", help="Folder of the tracking database.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file with settings.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting, repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge pictures and videos over HTTP by the registry's champion, which may change without a restart."""
    if context.invoked_subcommand is not None:
        return
    import socket

    import yaml

    from core.config import override, read_yaml, validate
    from core.errors import UserError
    from serving.config import ServingConfig
    from serving.keys import KeyFile

    content = override(read_yaml(config) if config else {}, settings or ())
    named = {"host": host, "port": port, "model": model, "shadow": shadow, "data": data, "mlruns": mlruns}
    content |= {name: value for name, value in named.items() if value is not None}
    resolved = validate(ServingConfig, content, str(config) if config else "command line")
    if dry_run:
        shown = resolved.model_dump(mode="json")
        typer.echo(resolved.model_dump_json(indent=2) if as_json else yaml.safe_dump(shown, sort_keys=False).rstrip())
        return
    if resolved.open_to_others and all(key.revoked for key in KeyFile(resolved.data).all()):
        raise UserError(
            f"{resolved.host} is open to other machines, and there is no key: "
            f"make one with `counterforge serve keys add NAME --data {resolved.data}`"
        )
    try:
        import uvicorn

        from serving.api import create_app
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'counterforge[serve]'") from error
    with socket.socket(socket.AF_INET6 if ":" in resolved.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((resolved.host, resolved.port))
        except OSError as error:
            raise UserError(
                f"{resolved.host}:{resolved.port} is not free ({error.strerror}): take another --port"
            ) from error
    typer.echo(f"http://{resolved.host}:{resolved.port}  (API: /docs; end with Ctrl-C)", err=True)
    uvicorn.run(
        create_app(resolved), host=resolved.host, port=resolved.port, log_level="warning", timeout_graceful_shutdown=10
    )


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")], data: Data = _DATA, as_json: AsJson = False
) -> None:
    """Make a key and print it: it is kept as a hash, and cannot be shown again."""
    import json

    from serving.keys import KeyFile

    token = KeyFile(data).add(name)
    typer.echo(json.dumps({"name": name, "key": token}) if as_json else token)


@keys.command("list")
def list_keys(data: Data = _DATA, as_json: AsJson = False) -> None:
    """Names of the keys, when they were made, and which are revoked."""
    import json

    from serving.keys import KeyFile

    known = [key.model_dump(mode="json", exclude={"sha256"}) for key in KeyFile(data).all()]
    lines = [f"{key['name']}  made {key['created'][:19]}" + ("  revoked" if key["revoked"] else "") for key in known]
    typer.echo(json.dumps(known, indent=2) if as_json else "\n".join(lines) or "no keys")


@keys.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="Whose key it is.")], data: Data = _DATA) -> None:
    """Refuse a key from now on, without a restart."""
    from serving.keys import KeyFile

    KeyFile(data).revoke(name)
    typer.echo(f"the key {name} is revoked")
