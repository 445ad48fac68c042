"""Which losses a method adds to the language model's, and how much they weigh."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """Losses added to the language model's: Align-LoRA's (2508.05078) and the importance loss of routers (1701.06538).

    Attributes:
        alignment: λ of Align-LoRA's loss, which pulls the tasks' distributions of A x together; 0.2 in the paper.
        alignment_distance: "kl", symmetric KL between diagonal Gaussians, or "mmd", with 19 Gaussian kernels.
        load_balance: weight of the importance loss of token routers, which pulls the heads' total weights together.
    """

    model_config = ConfigDict(extra="forbid")

    alignment: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    alignment_distance: Literal["kl", "mmd"] = "kl"
    load_balance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
