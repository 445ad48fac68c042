"""`loraweave serve`: an adapter behind an OpenAI-compatible server."""

import math
from pathlib import Path
from typing import Annotated

import typer

from loraweave.cli.output import console, errors, path_given
from loraweave.cli.train import OtherBase, TrustCode
from loraweave.errors import UserError


def serve(
    run: Annotated[
        Path,
        typer.Argument(
            help="A run, an adapter, an exported one, or a library of experts.",
            metavar="RUN",
            show_default=False,
            callback=path_given,
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What clients ask for; the folder's name by default.")] = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Likewise; 0 takes a free one.")] = 8000,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="A file with a key in each line; LORAWEAVE_API_KEYS holds some too.", callback=path_given),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Requests that are answered at once.")] = 32,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait beside them; others get 429.")] = 128,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a request, prompt and answer; the base's, up to 4,096.")
    ] = None,
    answer: Annotated[int, typer.Option(min=1, help="Tokens of an answer where a request does not say.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request, waiting included.")] = 120.0,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request's body; others get 413.")] = 1_000_000,
    cache_gb: Annotated[
        float | None, typer.Option(min=0, help="Memory for requests under way; by default at most 2 on a CPU.")
    ] = None,
    base: OtherBase = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the base's weights: auto, float32, bfloat16, float16; as trained by default.")
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, help="Of a library: experts kept in memory while idle; 64 by default.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Of a library: the cosine below which NAME:auto is answered by the base.")
    ] = None,
    embedding: Annotated[
        str | None, typer.Option(help="Of a library: a sentence-transformers model for NAME:auto.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts and answers into the log.")] = False,
    trust_code: TrustCode = False,
) -> None:
    """Serve an adapter, and its base beside it, to OpenAI's clients; requests of all tasks share a batch."""
    try:
        import fastapi  # noqa: F401
        import openai  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"serve needs {error.name}: pip install 'loraweave[serve]'") from None
    from loraweave.experts.manifest import NAME as MANIFEST
    from loraweave.serving.keys import read_keys
    from loraweave.serving.limits import Limits
    from loraweave.serving.server import Server, Serving

    for option, given in (("--timeout", timeout), ("--cache-gb", cache_gb), ("--threshold", threshold)):
        if given is not None and not math.isfinite(given):
            raise UserError(f"{option} {given}: a finite number is wanted")
    if experts is not None and not (run / MANIFEST).is_file():
        raise UserError(f"{run}: --experts is of a library of experts, and this is none")
    memory = None if cache_gb is None else int(cache_gb * 1e9)
    limits = Limits(batch, queue, context, answer, timeout, max_body, memory, experts=experts or Limits.experts)
    keys = read_keys(api_keys)
    how = (limits, keys, base, dtype, log_prompts, trust_code, threshold, embedding)
    server = Server(Serving(run, name, host, port, *how))
    for note in server.notes:
        errors.print(note, markup=False, soft_wrap=True)
    console.print(f"models  {'  '.join(server.names)}", markup=False, soft_wrap=True)
    server.listen(lambda: console.print(f"serving  {server.address}/v1", markup=False, soft_wrap=True))
