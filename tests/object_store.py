"""An S3-compatible server on this machine, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

from tests.cluster import free_port

BUCKET = "rollouts"


def announce() -> None:
    """Set where the server will be, as people do: by environment variables.

    Before Ray starts, whose processes inherit them.
    """
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{free_port()}"
    os.environ["AWS_ACCESS_KEY_ID"] = "tests"
    os.environ["AWS_SECRET_ACCESS_KEY"] = "tests"
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    # Credentials of whoever runs the tests are none of theirs.
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"


def serve_bucket() -> Iterator[str]:
    """A bucket; yields its URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    server = ThreadedMotoServer(port=int(endpoint.rpartition(":")[2]), verbose=False)
    server.start()
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    server.stop()
