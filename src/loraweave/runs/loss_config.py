"""Which losses a method adds to the language model's, and how much they weigh."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """Losses added to the language model's: Align-LoRA's (2508.05078) and the importance loss of routers (1701.06538).

    Attributes:
        alignment: λ of Align-LoRA's loss, which pulls the tasks' distributions of A x together; 0.2 in the paper.
        alignment_distance: "kl", symmetric KL between diagonal Gaussians, or "mmd", with 19 Gaussian kernels.
        load_balance: weight of the importance loss of token routers, which pulls the heads' total weights together.
        localized_balance: weight of LoRAMoE's balance: as `load_balance`, but a head counts a token of its own group
            1 + `localized_delta` times and any other 1 − `localized_delta` times.
        localized_groups: lists of task names; group g of G has the heads from N·g/G on, and all tasks are in one.
        localized_delta: δ, a share from 0 to 1.
        spectral: λ of mtLoRA's loss, which pushes the directions of the heads' B apart, those of small singular values
            above all; 0.5 to 1.0 in the paper. The mean over layers.
    """

    model_config = ConfigDict(extra="forbid")

    alignment: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    alignment_distance: Literal["kl", "mmd"] = "kl"
    load_balance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    localized_balance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    localized_groups: list[list[str]] | None = Field(default=None, min_length=2)
    localized_delta: float = Field(default=0.1, ge=0, le=1, allow_inf_nan=False)
    spectral: float = Field(default=0.0, ge=0, allow_inf_nan=False)
