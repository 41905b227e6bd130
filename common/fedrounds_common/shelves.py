"""The shelves that both sides share. Importing this file imports no plug-in: each is imported when a study names it."""

from __future__ import annotations

from fedrounds_common.channel import Channel
from fedrounds_common.codec import Codec
from fedrounds_common.network import Network
from fedrounds_common.plugins import Shelf
from fedrounds_common.privacy import Privacy
from fedrounds_common.strategy import Strategy
from fedrounds_common.task import Task

TASKS: Shelf[Task] = Shelf("tasks", Task)
NETWORKS: Shelf[Network] = Shelf("networks", Network)
STRATEGIES: Shelf[Strategy] = Shelf("strategies", Strategy)
CODECS: Shelf[Codec] = Shelf("codecs", Codec)
CHANNELS: Shelf[Channel] = Shelf("channels", Channel)
PRIVACY: Shelf[Privacy] = Shelf("privacy", Privacy)
