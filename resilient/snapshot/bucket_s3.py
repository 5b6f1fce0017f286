"""S3 and what speaks its language as a bucket, by way of s3fs.

Large objects are multipart uploads: the service keeps the parts of one that was cut short and lists them, so whoever
takes it up sends only what is missing, and an object appears when its upload is completed, not before. Parts copied
together on the server would do the same at the price of writing everything twice.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from resilient.snapshot.bucket import part_sizes
from resilient.snapshot.hashing import Checksum

_MOST_KEYS = 1000  # that one request may delete


class S3Bucket:
    """Objects below ``prefix`` in a bucket.

    :param filesystem: an ``s3fs.S3FileSystem``; it knows about credentials and endpoints, and makes the calls.
    """

    def __init__(self, filesystem: Any, bucket: str, prefix: str) -> None:
        self._filesystem = filesystem
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def call(self, method: str, **arguments: Any) -> Any:
        return self._filesystem.call_s3(method, Bucket=self._bucket, **arguments)

    def sizes(self, prefix: str = "") -> Mapping[str, int]:
        found: dict[str, int] = {}
        more: dict[str, Any] = {}
        while True:
            page = self.call("list_objects_v2", Prefix=self._prefix + prefix, **more)
            for entry in page.get("Contents", ()):
                found[entry["Key"].removeprefix(self._prefix)] = int(entry["Size"])
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def read(self, key: str, start: int, into: memoryview) -> None:
        path = f"{self._bucket}/{self._prefix}{key}"
        data = self._filesystem.cat_file(path, start=start, end=start + len(into)) if into else b""
        if len(data) != len(into):
            raise EOFError(f"{key} ended early")
        into[:] = data

    def put(self, key: str, data: bytes | memoryview) -> None:
        self.call("put_object", Key=self._prefix + key, Body=bytes(data))

    def begin(self, key: str, checksum: Checksum) -> MultipartUpload:
        try:
            known = [upload for name, upload in self._uploads(key) if name == key]
        except PermissionError:  # who may write need not be allowed to list what was begun; then nothing is taken up
            known = []
        for duplicate in known[1:]:
            self._abort(key, duplicate)
        full = self._prefix + key
        identity = known[0] if known else str(self.call("create_multipart_upload", Key=full)["UploadId"])
        upload = MultipartUpload(self, full, identity, part_sizes(checksum))
        if known:
            upload.look()
        return upload

    def unfinished(self) -> Collection[str]:
        return {key for key, _ in self._uploads("")}

    def abandon(self, key: str) -> None:
        for name, identity in list(self._uploads(key)):
            if name == key:
                self._abort(key, identity)

    def delete(self, keys: Sequence[str]) -> None:
        for at in range(0, len(keys), _MOST_KEYS):
            doomed = [{"Key": self._prefix + key} for key in keys[at : at + _MOST_KEYS]]
            answer = self.call("delete_objects", Delete={"Objects": doomed, "Quiet": True})
            for error in answer.get("Errors", ()):
                if error.get("Code") == "AccessDenied":
                    raise PermissionError(f"{error.get('Key')} may not be deleted: {error.get('Message')}")
                raise OSError(f"{error.get('Key')} could not be deleted: {error.get('Message')}")

    def _uploads(self, key: str) -> Iterator[tuple[str, str]]:
        """Key and name of every unfinished upload whose key begins with ``key``."""
        more: dict[str, Any] = {}
        while True:
            page = self.call("list_multipart_uploads", Prefix=self._prefix + key, **more)
            for entry in page.get("Uploads", ()):
                yield entry["Key"].removeprefix(self._prefix), str(entry["UploadId"])
            if not page.get("IsTruncated"):
                return
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def _abort(self, key: str, identity: str) -> None:
        try:
            self.call("abort_multipart_upload", Key=self._prefix + key, UploadId=identity)
        except FileNotFoundError:
            return  # somebody was faster


class MultipartUpload:
    """One multipart upload. Part numbers begin with 1 there and with 0 here."""

    ordered = False

    def __init__(self, bucket: S3Bucket, key: str, identity: str, sizes: Sequence[int]) -> None:
        self._bucket = bucket
        self._key = key
        self._identity = identity
        self._sizes = sizes
        self._tags: dict[int, str] = {}

    @property
    def present(self) -> Collection[int]:
        return set(self._tags)

    def look(self) -> None:
        """Find out which parts lie there, with the right size."""
        more: dict[str, Any] = {}
        while True:
            page = self._bucket.call("list_parts", Key=self._key, UploadId=self._identity, **more)
            for part in page.get("Parts", ()):
                number = int(part["PartNumber"]) - 1
                if number < len(self._sizes) and int(part["Size"]) == self._sizes[number]:
                    self._tags[number] = part["ETag"]
            if not page.get("IsTruncated"):
                return
            more = {"PartNumberMarker": int(page["NextPartNumberMarker"])}

    def send(self, number: int, data: memoryview) -> None:
        answer = self._bucket.call(
            "upload_part", Key=self._key, UploadId=self._identity, PartNumber=number + 1, Body=bytes(data)
        )
        self._tags[number] = answer["ETag"]

    def finish(self) -> None:
        parts = [{"PartNumber": number + 1, "ETag": tag} for number, tag in sorted(self._tags.items())]
        try:
            self._bucket.call(
                "complete_multipart_upload", Key=self._key, UploadId=self._identity, MultipartUpload={"Parts": parts}
            )
        except FileNotFoundError:
            # An upload that is completed is no longer there: that is so when only the answer was lost.
            if int(self._bucket.call("head_object", Key=self._key)["ContentLength"]) != sum(self._sizes):
                raise
