"""Ask a Flower process how it is: `python health.py 127.0.0.1:9099`; exit status 0 only if it serves."""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub


def serves(address: str, patience_s: float) -> bool:
    """Whether the health server at `address` answers SERVING within `patience_s`."""
    with grpc.insecure_channel(address) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=patience_s, wait_for_ready=True)
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}", file=sys.stderr)
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: health.py HOST:PORT [SECONDS]")
    sys.exit(0 if serves(sys.argv[1], float(sys.argv[2]) if len(sys.argv) == 3 else 4.0) else 1)
