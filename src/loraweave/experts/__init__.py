"""Experts: one plain LoRA for each task of one frozen base, which never touch each other (CORAL, 2603.09298)."""
