"""The emulated persistent memory: bytes, and the one seam through which they change."""

from pmemfs.device.counters import Counters
from pmemfs.device.crash import CrashState, CrashStates
from pmemfs.device.mapped import MappedDevice
from pmemfs.device.power import PowerStates
from pmemfs.device.recording import Event, RecordingDevice
from pmemfs.device.sparse import SparseImage

__all__ = [
    "Counters",
    "CrashState",
    "CrashStates",
    "Event",
    "MappedDevice",
    "PowerStates",
    "RecordingDevice",
    "SparseImage",
]
