"""Default choices from the size of the problem and the device."""

from nqs.recipes.choices import *  # noqa: F403
from nqs.runtime.device import checked_device, default_device  # noqa: F401
