"""Losses beside the language model's, and the health of routers: all from sums that a probe collects in the layers.

A loss on a distribution has to see the whole step, not one micro-batch of one process. So sums run on over the
micro-batches of a step and are added up over processes, both without gradient; each micro-batch adds its own with it.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from torch.nn.functional import pad

from loraweave.config import WeaveConfig
from loraweave.errors import UserError
from loraweave.lowrank import divergences
from loraweave.runs.loss_config import LossConfig
from loraweave.tuner.context import CallContext, attach, detach
from loraweave.tuner.probe import Probe

SAMPLES = 64  # of A x, per task and step, where a distance needs tokens and not only moments


class Auxiliary:
    """What one run adds to its loss and logs beside it.

    For every batch: `probe` before the forward pass, `loss` after it. `read` gives what is to be logged.

    Args:
        model: with its adapter.
        config: the weights of the losses.
        task_names: the tasks in the order of their ids.
        accelerator: of the run.

    Raises:
        UserError: a loss that the method or the tasks leave without meaning.
    """

    def __init__(self, model: Any, config: LossConfig, task_names: Sequence[str], accelerator: Accelerator) -> None:
        self.config = config
        self.task_names = list(task_names)
        self.accelerator = accelerator
        adapter = model.active_peft_config if isinstance(model, PeftModel) else None
        self.most_heads = adapter.most_heads if isinstance(adapter, WeaveConfig) else 1
        self.has_gate = isinstance(adapter, WeaveConfig) and (
            adapter.depends_on_input or (adapter.has_task_gate and self.most_heads > 1)
        )
        self._check(model, adapter)
        self.context: CallContext | None = None
        self.hooks: list[Any] = []
        self.groups = self._groups(adapter) if config.localized_balance else None
        if config.alignment or config.spectral or self.has_gate:
            self.base = model.get_base_model()
            self.context = attach(self.base)
            if not isinstance(adapter, WeaveConfig):
                self.hooks = _show_lora_to_probe(model, self.context)
        self._start_step()
        self.totals: dict[str, Tensor] = {}  # of what is logged, since it was last read
        self.by_layer: dict[str, Tensor] = {}  # router health of the last step that was looked at

    def _check(self, model: Any, adapter: Any) -> None:
        if self.config.alignment and len(self.task_names) < 2:
            raise UserError("alignment brings tasks together and needs at least two, this run has one")
        for name in ("load_balance", "localized_balance"):
            if getattr(self.config, name) and not (isinstance(adapter, WeaveConfig) and adapter.depends_on_input):
                raise UserError(f"{name} needs a router on tokens: gate 'token' and at least two heads")
        if self.config.spectral and self.most_heads < 2:
            raise UserError("spectral pushes heads apart and needs at least two")
        moved = (p for name, p in model.named_parameters() if ".weave_B." in name or ".weave_core." in name)
        if self.config.spectral and not any(parameter.requires_grad for parameter in moved):
            raise UserError("spectral pushes the heads' B apart, and none of them is trained here")
        if self.has_gate and adapter.top_k == 1:
            raise UserError(
                "top_k=1 gives the one head that speaks the weight 1 whatever its logit, so training would teach "
                "nothing of which to choose; take 2 or more, or gate='own' for one head per task"
            )

    def _groups(self, adapter: Any) -> Tensor:
        """(K,) the number of each task's group."""
        given = self.config.localized_groups
        if given is None:
            raise UserError("localized_balance needs localized_groups: two lists or more of tasks that belong together")
        by_task = {task: number for number, group in enumerate(given) for task in group}
        listed = sum(map(len, given))
        if sorted(by_task) != sorted(self.task_names) or listed != len(by_task):
            raise UserError(
                f"localized_groups must name each of the run's tasks ({', '.join(self.task_names)}) once, got {given}"
            )
        fewest = min(n for n in (adapter.num_heads, *adapter.num_heads_pattern.values()) if n > 1)
        if len(given) > fewest:
            raise UserError(f"localized_groups has {len(given)} groups, and some layers have {fewest} heads alone")
        return torch.tensor([by_task[task] for task in self.task_names])

    def release(self) -> None:
        """Take the hooks off again."""
        for hook in self.hooks:
            hook.remove()
        if self.hooks:
            detach(self.base)

    def probe(self, tasks: Tensor, padding: Tensor, accumulation: int, log: bool) -> Probe | None:
        """What should watch the next forward pass, if anything.

        Args:
            tasks: (batch, tokens) ids.
            padding: (batch, tokens) True where there is no token.
            accumulation: micro-batches in this step.
            log: whether this step's router health will be logged.
        """
        balance = bool(self.config.load_balance or self.config.localized_balance)
        losses = bool(self.config.alignment or self.config.spectral or balance)
        if self.context is None or not (losses or (self.has_gate and log)):
            return None
        kl = self.config.alignment_distance == "kl"
        return Probe(
            tasks.masked_fill(padding, -1),
            len(self.task_names),
            moments=bool(self.config.alignment) and kl,
            samples=max(4, SAMPLES // accumulation) if self.config.alignment and not kl else 0,
            heads=self.has_gate and (log or balance),
            overlaps=bool(self.config.spectral),
            with_gradient=losses,
        )

    def watch(self, probe: Probe | None) -> AbstractContextManager[None]:
        """Show a block of code's layers to a probe, if there is one."""
        return nullcontext() if self.context is None else self.context.watched_by(probe)

    def loss(self, probe: Probe, accumulation: int, last: bool) -> Tensor | None:
        """What to add to the loss of a micro-batch, for a step whose micro-batches' losses are added up.

        The gradients of a step's micro-batches add up to that of the loss over the whole step, as far as the sums so
        far stand for those of the step; the values add up to its value.

        Args:
            probe: after the forward pass.
            accumulation: micro-batches in this step.
            last: whether this is the last of them.
        """
        layers = probe.layers
        if not layers:
            return None
        self.micro_batches += 1
        counts, tensors = self._over_the_step(probe)
        losses: dict[str, Tensor] = {}
        if self.config.alignment:
            if self.config.alignment_distance == "kl":
                each = [
                    divergences.symmetric_kl(counts, tensors[name, "sums"], tensors[name, "squares"]) for name in layers
                ]
            else:
                each = [divergences.mmd(*self._samples(name, probe)) for name in layers]
            losses["alignment"] = self.config.alignment * torch.stack(each).mean()
        for kind, of in (("load_balance", _imbalance), ("localized_balance", self._localized)):
            if weight := getattr(self.config, kind):
                each = [of(tensors[key]) for key in tensors if key[1] == "weights"]
                losses[kind] = weight * torch.stack(each).mean()
        # A token's part of a mean was 1 / (tokens so far) and should be 1 / (tokens of the step); and gradients are
        # averaged over processes. A loss of weights alone is the same in every micro-batch and process.
        gradients = [loss * self.micro_batches * self.accelerator.num_processes for loss in losses.values()]
        overlaps = [layer.overlap for layer in layers.values() if layer.overlap is not None]
        if self.config.spectral and overlaps:
            losses["spectral"] = self.config.spectral * torch.stack(overlaps).mean()
            gradients.append(losses["spectral"])
        if last:
            for name, loss in losses.items():
                self._add(f"loss_{name}", torch.stack([loss.detach(), torch.ones_like(loss)]))
            if probe.heads:
                self._note_health(tensors, counts)
            self._start_step()
        if not losses:
            return None
        value, gradient = torch.stack(list(losses.values())).sum(), torch.stack(gradients).sum() / accumulation
        return gradient - gradient.detach() + (value.detach() if last else 0)

    def _localized(self, weights: Tensor) -> Tensor:
        """LoRAMoE's imbalance of one layer's heads, weights (K, N)."""
        assert self.groups is not None
        heads = weights.shape[1]
        of_heads = torch.arange(heads, device=weights.device) * (int(self.groups.max()) + 1) // heads
        alike = self.groups.to(weights.device).unsqueeze(1) == of_heads
        return divergences.localized_imbalance(weights, alike, self.config.localized_delta)

    def read(self) -> dict[str, float]:
        """The means since the last reading.

        Returns:
            loss_alignment, loss_load_balance, loss_localized_balance, loss_spectral: as added to the loss, with their
                weights.
            router/entropy: mean over layers and tokens of the head weights' entropy over log N: 1 when all heads weigh
                alike, 0 when one speaks alone. router/entropy/<task>: over a task's tokens.
            router/usage/<task>/head<h>: mean over layers of the mean weight of a head on a task's tokens.
        """
        values: dict[str, float] = {}
        for name, total in self.totals.items():
            if name.startswith("loss_"):
                values[name] = float(total[0] / total[1])
        if (total := self.totals.get("router")) is not None:
            health = _health(total)
            values["router/entropy"] = health["entropy"]
            for task, entropy, usage in zip(self.task_names, health["entropy_by_task"], health["usage"], strict=True):
                if entropy is not None:
                    values[f"router/entropy/{task}"] = entropy
                    values.update({f"router/usage/{task}/head{h}": share for h, share in enumerate(usage)})
        self.totals = {}
        return values

    def routing(self) -> dict[str, Any] | None:
        """Router health of each layer in the last step that was looked at; None where heads are not weighed.

        Returns:
            tasks: their names. layers: by path, `entropy` (over log N), `entropy_by_task` (K) and `usage` (K, N).
        """
        if not self.by_layer:
            return None
        return {"tasks": self.task_names, "layers": {name: _health(sums) for name, sums in self.by_layer.items()}}

    def _start_step(self) -> None:
        self.micro_batches = 0
        self.running: Tensor | None = None
        self.running_samples: dict[str, tuple[Tensor, Tensor]] = {}

    def _over_the_step(self, probe: Probe) -> tuple[Tensor, dict[tuple[str, str], Tensor]]:
        """Token counts (K,) and every layer's sums, over the step so far and all processes; one exchange for all."""
        own = {("", "counts"): probe.counts.float()}
        for name, layer in probe.layers.items():
            for kind in ("sums", "squares", "weights", "entropy"):
                if (tensor := getattr(layer, kind)) is not None:
                    own[name, kind] = tensor
        flat = torch.cat([tensor.flatten() for tensor in own.values()])
        fixed = self.accelerator.reduce(flat.detach().clone(), "sum")
        total = flat - flat.detach() + fixed
        if self.running is not None:
            total = total + self.running
        self.running = total.detach()
        pieces = total.split([tensor.numel() for tensor in own.values()])
        tensors = {key: piece.view(own[key].shape) for key, piece in zip(own, pieces, strict=True)}
        return tensors.pop(("", "counts")), tensors

    def _samples(self, layer: str, probe: Probe) -> tuple[Tensor, Tensor]:
        """(K, S, D) samples of a layer's A x and their weights (K, S), over the step so far and all processes."""
        own = probe.layers[layer].samples
        assert own is not None
        weights = probe.counts.to(own.dtype)[:, None].expand(own.shape[:2])
        points = own
        if self.accelerator.num_processes > 1:
            rank = self.accelerator.process_index
            others = list(self.accelerator.gather(own.detach()[None]))
            others[rank] = own
            points, weights = torch.cat(others, 1), torch.cat(list(self.accelerator.gather(weights[None])), 1)
        if layer in self.running_samples:
            before, weights_before = self.running_samples[layer]
            points, weights = torch.cat([before, points], 1), torch.cat([weights_before, weights], 1)
        self.running_samples[layer] = points.detach(), weights
        return points, weights

    def _note_health(self, tensors: dict[tuple[str, str], Tensor], counts: Tensor) -> None:
        """Layers with one head alone have nothing to weigh and are left out."""
        self.by_layer = {
            name: _sums(tensors[name, "entropy"], weights, counts).detach()
            for (name, kind), weights in tensors.items()
            if kind == "weights" and weights.shape[1] > 1
        }
        for sums in self.by_layer.values():
            self._add("router", sums)

    def _add(self, name: str, value: Tensor) -> None:
        """Layers may have different numbers of heads: what one lacks counts as nothing."""
        total = self.totals.get(name, torch.zeros_like(value))
        most = max(total.shape[-1], value.shape[-1])
        self.totals[name] = pad(total, (0, most - total.shape[-1])) + pad(value, (0, most - value.shape[-1]))


def _imbalance(weights: Tensor) -> Tensor:
    return divergences.imbalance(weights.sum(0))


def _sums(entropy: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """One layer's sums over tokens as (2, K, 1 + N): entropy over log N, and weight of each head; and for each of these
    numbers how many tokens it is the sum of.

    Args:
        entropy: (K,) in nats. weights: (K, N). counts: (K,) tokens.
    """
    values = torch.cat([entropy[:, None] / math.log(weights.shape[1]), weights], 1)
    return torch.stack([values, counts[:, None].to(values.dtype).expand_as(values)])


def _health(sums: Tensor) -> dict[str, Any]:
    """Means from `_sums` of one layer, or of several added up; None for a task without tokens."""
    values, tokens = sums.double().cpu()
    means = values / tokens
    there = (tokens[:, 0] > 0).tolist()
    return {
        "entropy": float(values[:, 0].sum() / tokens[:, 0].sum()),
        "entropy_by_task": [float(row[0]) if known else None for row, known in zip(means, there, strict=True)],
        "usage": [row[1:].tolist() if known else None for row, known in zip(means, there, strict=True)],
    }


def _show_lora_to_probe(model: PeftModel, context: CallContext) -> list[Any]:
    """Let the layers of PEFT's own LoRA report A x, as Weave layers do by themselves."""

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Tensor) -> None:
            if context.probe is not None:
                context.probe.see(name, output.unsqueeze(-2))

        return hook

    return [
        down.register_forward_hook(watch(f"{name}.{adapter}"))
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
        for adapter, down in layer.lora_A.items()
    ]
