"""The algebra of every method, on tensors alone: no PEFT, no configuration, nothing that reads or writes.

algebra       y = W x + s · Σ_h g_h ⊙ B_h · D_h(Λ A_a(h) x), fast
gates         who speaks
formula       one layer's update as a value: by the letter, folded, weighed
factors       the best pair of factors of a smaller rank
by_head       products in which every row has a head of its own
starts        where training starts
dropping      dropout that costs little
divergences   how far apart tasks are in rank space, how unevenly heads are used
"""

from loraweave.lowrank.algebra import check_shapes, delta, fold, mix, stack_up, transformed

__all__ = ["check_shapes", "delta", "fold", "mix", "stack_up", "transformed"]
