"""What to do while nobody asks for anything: a pure plan, and one bounded step of it."""

from pmemfs.reclaim.plan import Action, Columns, Policy, Situation, Step, plan
from pmemfs.reclaim.reclaimer import Reclaimer

__all__ = ["Action", "Columns", "Policy", "Reclaimer", "Situation", "Step", "plan"]
