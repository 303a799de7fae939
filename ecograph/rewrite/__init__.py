"""Rewriting: what a pass is, and how rewritten graphs come back to the user's own model."""

from ecograph.rewrite.passes import Layer, Pass, Plan, plan, rewrite_graphs

__all__ = ["Layer", "Pass", "Plan", "plan", "rewrite_graphs"]
