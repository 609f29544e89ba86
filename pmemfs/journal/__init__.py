"""Atomic changes to many places of the device: a redo journal of byte ranges."""

from pmemfs.journal.journal import Journal
from pmemfs.journal.recovery import Replay, read_transaction, recover
from pmemfs.journal.sequence import SequenceWord
from pmemfs.journal.transaction import Transaction

__all__ = ["Journal", "Replay", "SequenceWord", "Transaction", "read_transaction", "recover"]
