"""Assembly of the loader: what it finds, what it does, the server, in the order in which they start."""

import os
from collections.abc import Sequence
from pathlib import Path

from podlane.loader.v1 import loader_pb2, loader_pb2_grpc

from services.common import lifecycle, telemetry
from services.common.config import Settings
from services.common.edge import Server
from services.common.errors import FailedPrecondition
from services.loader.adopt import adopt
from services.loader.attach import Attachers, Tc, Tcx, check_mode
from services.loader.blocking import Blocking
from services.loader.datapath import Datapath
from services.loader.host import Host
from services.loader.links import Links
from services.loader.nodeconfig import NodeConfigurer
from services.loader.pins import Pins
from services.loader.regenerate import Regenerator
from services.loader.servicer import LoaderServicer, Parts
from services.loader.statedir import StateDir
from services.loader.steps import Kernel
from services.loader.template import Templates

NAME = loader_pb2.DESCRIPTOR.services_by_name["LoaderService"].full_name

_log = telemetry.logger("main")
