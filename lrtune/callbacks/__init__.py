"""Callbacks that put an Optuna trial's schedule into the training of a framework.

One file a framework, which is imported there and nowhere else: ``lrtune.callbacks.lightning`` and
``lrtune.callbacks.huggingface``, with a ``TrialCallback`` each.
"""
