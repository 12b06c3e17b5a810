"""boto3 against a gateway. Usage: boto3_suite.py ENDPOINT BUCKET; credentials from the environment.

Each function named case_* is one behaviour; the first failure ends the run with its traceback.
"""

import base64
import hashlib
import io
import sys
import threading
import urllib.error
import urllib.request
import zlib

import boto3
from botocore.client import Config
from botocore.exceptions import ClientError

ENDPOINT, BUCKET = sys.argv[1], sys.argv[2]
MIB = 1 << 20


def client(**options):
    return boto3.client(
        "s3",
        endpoint_url=ENDPOINT,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"max_attempts": 1},
            **options,
        ),
    )


s3 = client()


def expect(code, call, **arguments):
    """The call is refused with this code; gives the response back."""
    try:
        call(**arguments)
    except ClientError as error:
        found = error.response["Error"]["Code"]
        assert found == code, f"{code} wanted, {found} found: {error}"
        return error.response
    raise AssertionError(f"{code} wanted, but the call succeeded")


def put(key, body=b"x", **more):
    return s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)


def get(key, **more):
    return s3.get_object(Bucket=BUCKET, Key=key, **more)


def pattern(size, seed=0):
    block = hashlib.sha512(str(seed).encode()).digest() * 1024
    return (block * (size // len(block) + 1))[:size]


def case_buckets():
    assert BUCKET in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    expect("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket=BUCKET)
    expect("404", s3.head_bucket, Bucket="not-there-at-all")
    expect("NoSuchBucket", s3.list_objects_v2, Bucket="not-there-at-all")
    assert s3.head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"]


def case_put_get_metadata():
    data = pattern(100_000)
    put("meta", data, ContentType="text/x-a", CacheControl="no-cache", ContentLanguage="de",
        ContentDisposition='attachment; filename="a"', ContentEncoding="identity",
        Metadata={"colour": "blue", "size": "9"})
    got = get("meta")
    assert got["Body"].read() == data
    assert got["ContentType"] == "text/x-a" and got["CacheControl"] == "no-cache"
    assert got["ContentLanguage"] == "de" and got["ContentEncoding"] == "identity"
    assert got["Metadata"] == {"colour": "blue", "size": "9"}
    assert got["ETag"] == '"%s"' % hashlib.md5(data).hexdigest()
    head = s3.head_object(Bucket=BUCKET, Key="meta")
    assert head["ContentLength"] == len(data) and head["Metadata"] == got["Metadata"]
    over = get("meta", ResponseContentType="image/png", ResponseCacheControl="max-age=1")
    assert over["ContentType"] == "image/png" and over["CacheControl"] == "max-age=1"
    expect("MetadataTooLarge", put, key="m", Metadata={"a": "x" * 3000})


def case_empty_and_odd_keys():
    keys = ["empty", "a/../b", "./c", "a//b", "/lead", "trail/", "sp ace+plus", "perc%2Fent",
            "ünïcödé/日本語/🙂", "quote'\"<&>", "tab\tnew\nline", "q?query=1&x#frag", "~tilde()!*"]
    for key in keys:
        put("odd/" + key, key.encode())
    for key in keys:
        assert get("odd/" + key)["Body"].read() == key.encode(), key
    listed = [c["Key"] for c in s3.list_objects_v2(Bucket=BUCKET, Prefix="odd/")["Contents"]]
    assert listed == sorted(["odd/" + k for k in keys], key=lambda k: k.encode()), listed
    errors = s3.delete_objects(
        Bucket=BUCKET, Delete={"Objects": [{"Key": "odd/" + k} for k in keys]}).get("Errors")
    assert not errors, errors
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="odd/")["KeyCount"] == 0
    put("empty", b"")
    assert get("empty")["Body"].read() == b""
    expect("KeyTooLongError", put, key="k" * 1025)
    put("k" * 1024)


def case_ranges():
    data = pattern(10_000, 1)
    put("range", data)
    for text, want in [("bytes=0-0", data[:1]), ("bytes=9990-", data[9990:]),
                       ("bytes=-7", data[-7:]), ("bytes=5-20000", data[5:]),
                       ("bytes=-20000", data)]:
        got = get("range", Range=text)
        assert got["Body"].read() == want, text
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"].endswith("/10000")
    expect("InvalidRange", get, key="range", Range="bytes=10000-")
    whole = get("range", Range="bytes=0-1,4-5")
    assert whole["ResponseMetadata"]["HTTPStatusCode"] == 200 and whole["Body"].read() == data


def case_conditional_reads():
    put("cond", b"1")
    head = s3.head_object(Bucket=BUCKET, Key="cond")
    etag, when = head["ETag"], head["LastModified"]
    assert get("cond", IfMatch=etag)["Body"].read() == b"1"
    expect("PreconditionFailed", get, key="cond", IfMatch='"0"')
    expect("304", get, key="cond", IfNoneMatch=etag)
    expect("304", get, key="cond", IfModifiedSince=when)
    get("cond", IfUnmodifiedSince=when)
    get("cond", IfMatch=etag, IfUnmodifiedSince="Mon, 01 Jan 2001 00:00:00 GMT")
    expect("PreconditionFailed", get, key="cond",
           IfUnmodifiedSince="Mon, 01 Jan 2001 00:00:00 GMT")


def case_conditional_writes():
    put("once", b"1", IfNoneMatch="*")
    expect("PreconditionFailed", put, key="once", body=b"2", IfNoneMatch="*")
    etag = s3.head_object(Bucket=BUCKET, Key="once")["ETag"]
    put("once", b"3", IfMatch=etag)
    expect("PreconditionFailed", put, key="once", body=b"4", IfMatch=etag)
    expect("NoSuchKey", put, key="never", body=b"4", IfMatch=etag)


def reflected_crc(data, polynomial, size):
    """The CRCs that Python has not: the SDK would need an optional library for them."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ polynomial if value & 1 else value >> 1
        table.append(value)
    ones = (1 << (8 * size)) - 1
    state = ones
    for byte in data:
        state = table[(state ^ byte) & 255] ^ (state >> 8)
    return base64.b64encode((state ^ ones).to_bytes(size, "big")).decode()


def case_checksums_of_all_kinds():
    data = pattern(300_000, 2)
    known = {
        "CRC32": base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode(),
        "CRC32C": reflected_crc(data, 0x82F63B78, 4),
        "CRC64NVME": reflected_crc(data, 0x9A6C9329AC4BC9B5, 8),
        "SHA1": base64.b64encode(hashlib.sha1(data).digest()).decode(),
        "SHA256": base64.b64encode(hashlib.sha256(data).digest()).decode(),
    }
    for kind, value in known.items():
        field = "Checksum" + kind
        if kind in ("CRC32C", "CRC64NVME"):
            answer = put("sum-" + kind, data, **{field: value})
            wrong = base64.b64encode(bytes(4 if kind == "CRC32C" else 8)).decode()
            expect("BadDigest", put, key="sum-bad", body=data, **{field: wrong})
        else:
            answer = put("sum-" + kind, data, ChecksumAlgorithm=kind)
        assert answer[field] == value, kind
        got = s3.head_object(Bucket=BUCKET, Key="sum-" + kind, ChecksumMode="ENABLED")
        assert got[field] == value and got["ChecksumType"] == "FULL_OBJECT"
        assert get("sum-" + kind, ChecksumMode="ENABLED")["Body"].read() == data
        attributes = s3.get_object_attributes(
            Bucket=BUCKET, Key="sum-" + kind, ObjectAttributes=["Checksum", "ObjectSize", "ETag"])
        assert attributes["Checksum"][field] == value
        assert attributes["ObjectSize"] == len(data)
    put("sum-given", data, ChecksumSHA256=known["SHA256"])
    wrong = base64.b64encode(bytes(32)).decode()
    expect("BadDigest", put, key="sum-bad", body=data, ChecksumSHA256=wrong)
    md5 = base64.b64encode(hashlib.md5(data).digest()).decode()
    put("md5", data, ContentMD5=md5)
    expect("BadDigest", put, key="md5", body=b"other", ContentMD5=md5)
    expect("InvalidDigest", put, key="md5", body=b"other", ContentMD5="short")
    # Streams of unknown position make the SDK use aws-chunked with a trailer.
    put("trailer", io.BytesIO(data), ChecksumAlgorithm="SHA256")
    assert get("trailer")["Body"].read() == data


def multipart(key, sizes, **more):
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]
    parts, data = [], b""
    kind = more.get("ChecksumAlgorithm")
    for number, size in enumerate(sizes, 1):
        body = pattern(size, number)
        data += body
        extra = {"ChecksumAlgorithm": kind} if kind else {}
        answer = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number,
                                Body=body, **extra)
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if kind:
            part["Checksum" + kind] = answer["Checksum" + kind]
        parts.append(part)
    return upload, parts, data


def complete(key, upload, parts, **more):
    return s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload,
                                        MultipartUpload={"Parts": parts}, **more)


def case_multipart():
    upload, parts, data = multipart("multi", [5 * MIB, 5 * MIB, 777], Metadata={"m": "1"})
    listed = s3.list_parts(Bucket=BUCKET, Key="multi", UploadId=upload, MaxParts=2)
    assert [p["PartNumber"] for p in listed["Parts"]] == [1, 2] and listed["IsTruncated"]
    ours = s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert upload in [u["UploadId"] for u in ours]
    expect("InvalidPartOrder", complete, key="multi", upload=upload, parts=parts[::-1])
    bad = [dict(parts[0], ETag='"%s"' % ("0" * 32))] + parts[1:]
    expect("InvalidPart", complete, key="multi", upload=upload, parts=bad)
    answer = complete("multi", upload, parts)
    assert answer["ETag"].endswith('-3"')
    got = get("multi")
    assert got["Body"].read() == data and got["Metadata"] == {"m": "1"}
    part = get("multi", PartNumber=2)
    assert part["Body"].read() == data[5 * MIB:10 * MIB] and part["PartsCount"] == 3
    assert s3.head_object(Bucket=BUCKET, Key="multi", PartNumber=3)["ContentLength"] == 777
    upload, parts, _ = multipart("small-parts", [100, 100])
    expect("EntityTooSmall", complete, key="small-parts", upload=upload, parts=parts)
    s3.abort_multipart_upload(Bucket=BUCKET, Key="small-parts", UploadId=upload)
    expect("NoSuchUpload", complete, key="small-parts", upload=upload, parts=parts)
    expect("NoSuchUpload", s3.list_parts, Bucket=BUCKET, Key="small-parts", UploadId=upload)
    upload, parts, _ = multipart("once", [10])
    expect("PreconditionFailed", complete, key="once", upload=upload, parts=parts, IfNoneMatch="*")
    s3.abort_multipart_upload(Bucket=BUCKET, Key="once", UploadId=upload)


def case_multipart_checksums():
    upload, parts, data = multipart("multi-sum", [5 * MIB, 99], ChecksumAlgorithm="SHA256")
    answer = complete("multi-sum", upload, parts)
    digests = b"".join(hashlib.sha256(d).digest() for d in (data[:5 * MIB], data[5 * MIB:]))
    want = base64.b64encode(hashlib.sha256(digests).digest()).decode() + "-2"
    assert answer["ChecksumSHA256"] == want and answer["ChecksumType"] == "COMPOSITE"
    head = s3.head_object(Bucket=BUCKET, Key="multi-sum", ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == want
    attributes = s3.get_object_attributes(Bucket=BUCKET, Key="multi-sum",
                                          ObjectAttributes=["ObjectParts", "Checksum"])
    assert len(attributes["ObjectParts"]["Parts"]) == 2
    upload, parts, data = multipart("multi-crc", [5 * MIB, 5 * MIB, 99], ChecksumAlgorithm="CRC32",
                                    ChecksumType="FULL_OBJECT")
    answer = complete("multi-crc", upload, parts, ChecksumType="FULL_OBJECT")
    assert answer["ChecksumCRC32"] == base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    assert get("multi-crc", ChecksumMode="ENABLED")["Body"].read() == data


def case_transfer_manager():
    data = pattern(23 * MIB + 17, 9)
    s3.upload_fileobj(io.BytesIO(data), BUCKET, "managed")
    back = io.BytesIO()
    s3.download_fileobj(BUCKET, "managed", back)
    assert back.getvalue() == data


def case_copy():
    put("src ü+.txt", b"copy me", Metadata={"a": "1"}, ContentType="text/a", Tagging="t=1")
    source = {"Bucket": BUCKET, "Key": "src ü+.txt"}
    s3.copy_object(Bucket=BUCKET, Key="dst", CopySource=source)
    got = get("dst")
    assert got["Body"].read() == b"copy me" and got["Metadata"] == {"a": "1"}
    assert got["TagCount"] == 1
    s3.copy_object(Bucket=BUCKET, Key="dst", CopySource=source, MetadataDirective="REPLACE",
                   Metadata={"b": "2"}, TaggingDirective="REPLACE", Tagging="u=1&v=2")
    got = get("dst")
    assert got["Metadata"] == {"b": "2"} and got["TagCount"] == 2
    expect("InvalidRequest", s3.copy_object, Bucket=BUCKET, Key="src ü+.txt", CopySource=source)
    expect("NoSuchKey", s3.copy_object, Bucket=BUCKET, Key="dst",
           CopySource={"Bucket": BUCKET, "Key": "nope"})
    expect("PreconditionFailed", s3.copy_object, Bucket=BUCKET, Key="dst", CopySource=source,
           CopySourceIfMatch='"0"')
    put("big-src", pattern(11 * MIB, 5))
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key="assembled")["UploadId"]
    parts = []
    for number, (first, last) in enumerate([(0, 6 * MIB - 1), (6 * MIB, 11 * MIB - 1)], 1):
        answer = s3.upload_part_copy(Bucket=BUCKET, Key="assembled", UploadId=upload,
                                     PartNumber=number, CopySourceRange=f"bytes={first}-{last}",
                                     CopySource={"Bucket": BUCKET, "Key": "big-src"})
        parts.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    complete("assembled", upload, parts)
    assert get("assembled")["Body"].read() == pattern(11 * MIB, 5)


def case_listing():
    for i in range(25):
        put(f"list/{'dir%d/' % (i % 3) if i % 2 else ''}f{i:02d}")
    pages = list(s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": 4}))
    keys = [c["Key"] for p in pages for c in p.get("Contents", [])]
    assert len(keys) == 25 and keys == sorted(keys) and len(pages) == 7
    pages = list(s3.get_paginator("list_objects_v2").paginate(
        Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 4}))
    prefixes = [c["Prefix"] for p in pages for c in p.get("CommonPrefixes", [])]
    assert prefixes == ["list/dir0/", "list/dir1/", "list/dir2/"], prefixes
    assert sum(len(p.get("Contents", [])) for p in pages) == 13
    pages = list(s3.get_paginator("list_objects").paginate(
        Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": 3}))
    assert sum(len(p.get("Contents", [])) for p in pages) == 13
    after = s3.list_objects_v2(Bucket=BUCKET, Prefix="list/", StartAfter="list/f22",
                               FetchOwner=True)
    assert [c["Key"] for c in after["Contents"]] == ["list/f24"]
    assert after["Contents"][0]["Owner"]["ID"]
    assert s3.list_objects_v2(Bucket=BUCKET, MaxKeys=0)["KeyCount"] == 0
    expect("InvalidArgument", s3.list_objects_v2, Bucket=BUCKET, ContinuationToken="rubbish")


def case_delete_objects():
    for i in range(5):
        put(f"del/{i}")
    answer = s3.delete_objects(Bucket=BUCKET, Delete={
        "Objects": [{"Key": f"del/{i}"} for i in range(3)] + [{"Key": "del/never"}]})
    assert len(answer["Deleted"]) == 4 and "Errors" not in answer
    answer = s3.delete_objects(Bucket=BUCKET, Delete={
        "Objects": [{"Key": "del/3"}, {"Key": "del/4"}], "Quiet": True})
    assert "Deleted" not in answer
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="del/")["KeyCount"] == 0


def case_tagging():
    put("tagged", Tagging="a=1&b=two%20words")
    tags = s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"]
    assert tags == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "two words"}]
    s3.put_object_tagging(Bucket=BUCKET, Key="tagged",
                          Tagging={"TagSet": [{"Key": "ü", "Value": "ö"}]})
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"][0]["Key"] == "ü"
    s3.delete_object_tagging(Bucket=BUCKET, Key="tagged")
    assert s3.get_object_tagging(Bucket=BUCKET, Key="tagged")["TagSet"] == []
    expect("InvalidTag", s3.put_object_tagging, Bucket=BUCKET, Key="tagged",
           Tagging={"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]})
    expect("NoSuchTagSet", s3.get_bucket_tagging, Bucket=BUCKET)
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": [{"Key": "team", "Value": "x"}]})
    assert s3.get_bucket_tagging(Bucket=BUCKET)["TagSet"][0]["Value"] == "x"
    s3.delete_bucket_tagging(Bucket=BUCKET)
    expect("NoSuchTagSet", s3.get_bucket_tagging, Bucket=BUCKET)


def case_versions():
    bucket = BUCKET + "-v"
    s3.create_bucket(Bucket=bucket)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"null")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"
    one = s3.put_object(Bucket=bucket, Key="k", Body=b"one")["VersionId"]
    two = s3.put_object(Bucket=bucket, Key="k", Body=b"two")["VersionId"]
    assert s3.get_object(Bucket=bucket, Key="k", VersionId=one)["Body"].read() == b"one"
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"null"
    marker = s3.delete_object(Bucket=bucket, Key="k")
    assert marker["DeleteMarker"]
    answer = expect("NoSuchKey", s3.get_object, Bucket=bucket, Key="k")
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-delete-marker"] == "true"
    expect("MethodNotAllowed", s3.get_object, Bucket=bucket, Key="k", VersionId=marker["VersionId"])
    versions = s3.list_object_versions(Bucket=bucket)
    assert [v["VersionId"] for v in versions["Versions"]] == [two, one, "null"]
    assert [m["IsLatest"] for m in versions["DeleteMarkers"]] == [True]
    paged = list(s3.get_paginator("list_object_versions").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": 1}))
    assert sum(len(p.get("Versions", [])) + len(p.get("DeleteMarkers", [])) for p in paged) == 4
    s3.delete_object(Bucket=bucket, Key="k", VersionId=marker["VersionId"])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"two"
    expect("NoSuchVersion", s3.get_object, Bucket=bucket, Key="k", VersionId="0" * 32)
    s3.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k",
                                                       "VersionId": one})
    assert s3.get_object(Bucket=bucket, Key="c")["Body"].read() == b"one"
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.put_object(Bucket=bucket, Key="k", Body=b"null again")
    assert s3.get_object(Bucket=bucket, Key="k", VersionId="null")["Body"].read() == b"null again"
    expect("BucketNotEmpty", s3.delete_bucket, Bucket=bucket)
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for item in page.get("Versions", []) + page.get("DeleteMarkers", []):
            s3.delete_object(Bucket=bucket, Key=item["Key"], VersionId=item["VersionId"])
    s3.delete_bucket(Bucket=bucket)


def fetch(url, method="GET", body=None, headers=None):
    request = urllib.request.Request(url, data=body, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def case_presigned():
    url = s3.generate_presigned_url("put_object", Params={"Bucket": BUCKET, "Key": "pre signed"})
    assert fetch(url, "PUT", b"by url")[0] == 200
    url = s3.generate_presigned_url("get_object", Params={
        "Bucket": BUCKET, "Key": "pre signed", "ResponseContentType": "text/plain"})
    status, body, headers = fetch(url)
    assert status == 200 and body == b"by url" and headers["content-type"] == "text/plain"
    status, body, _ = fetch(url.replace("text", "html"))
    assert status == 403 and b"SignatureDoesNotMatch" in body
    status, body, _ = fetch(f"{ENDPOINT}/{BUCKET}/pre%20signed")
    assert status == 403 and b"AccessDenied" in body
    post = s3.generate_presigned_post(BUCKET, "posted")
    status, body, _ = fetch(post["url"], "POST", b"--x--",
                            {"Content-Type": "multipart/form-data; boundary=x"})
    assert status in (403, 501), status


def case_cors():
    expect("NoSuchCORSConfiguration", s3.get_bucket_cors, Bucket=BUCKET)
    s3.put_bucket_cors(Bucket=BUCKET, CORSConfiguration={"CORSRules": [{
        "AllowedOrigins": ["https://*.example.org"], "AllowedMethods": ["GET", "PUT"],
        "AllowedHeaders": ["*"], "ExposeHeaders": ["ETag"], "MaxAgeSeconds": 600}]})
    rules = s3.get_bucket_cors(Bucket=BUCKET)["CORSRules"]
    assert rules[0]["MaxAgeSeconds"] == 600
    put("cors")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "cors"})
    origin = "https://app.example.org"
    _, _, headers = fetch(url, headers={"Origin": origin})
    assert headers["access-control-allow-origin"] == origin
    status, _, headers = fetch(url, "OPTIONS", headers={
        "Origin": origin, "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "x-a, range"})
    assert status == 200 and headers["access-control-max-age"] == "600"
    status, _, _ = fetch(url, "OPTIONS", headers={
        "Origin": "https://evil.example.com", "Access-Control-Request-Method": "GET"})
    assert status == 403
    s3.delete_bucket_cors(Bucket=BUCKET)
    expect("NoSuchCORSConfiguration", s3.get_bucket_cors, Bucket=BUCKET)


def case_acl_and_encryption():
    put("acl", ACL="private")
    assert s3.get_object_acl(Bucket=BUCKET, Key="acl")["Grants"][0]["Permission"] == "FULL_CONTROL"
    assert len(s3.get_bucket_acl(Bucket=BUCKET)["Grants"]) == 1
    s3.put_object_acl(Bucket=BUCKET, Key="acl", ACL="private")
    expect("AccessControlListNotSupported", put, key="acl", ACL="public-read")
    assert put("sse", ServerSideEncryption="AES256")["ServerSideEncryption"] == "AES256"
    expect("NotImplemented", put, key="sse", ServerSideEncryption="aws:kms")


def case_not_implemented():
    for name, more in [
        ("get_bucket_policy", {}), ("get_bucket_lifecycle_configuration", {}),
        ("get_bucket_website", {}), ("get_bucket_replication", {}),
        ("get_object_lock_configuration", {}), ("get_bucket_notification_configuration", {}),
        ("get_object_retention", {"Key": "acl"}), ("get_object_torrent", {"Key": "acl"}),
    ]:
        answer = expect("NotImplemented", getattr(s3, name), Bucket=BUCKET, **more)
        assert "is not implemented" in answer["Error"]["Message"], answer


def case_wrong_identity():
    wrong = boto3.client("s3", endpoint_url=ENDPOINT, aws_access_key_id="AKIANOBODY",
                         aws_secret_access_key="x")
    expect("InvalidAccessKeyId", wrong.list_buckets)
    session = boto3.session.Session()
    key = session.get_credentials().access_key
    wrong = boto3.client("s3", endpoint_url=ENDPOINT, aws_access_key_id=key,
                         aws_secret_access_key="not the secret")
    expect("SignatureDoesNotMatch", wrong.list_buckets)


def case_many_at_once():
    failures = []

    def work(number):
        try:
            for i in range(10):
                body = pattern(10_000 + i, number)
                put(f"many/{number}/{i}", body)
                assert get(f"many/{number}/{i}")["Body"].read() == body
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def empty():
    for upload in s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        objects = [{"Key": c["Key"]} for c in page.get("Contents", [])]
        if objects:
            answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": objects})
            assert "Errors" not in answer, answer["Errors"]
    s3.delete_bucket(Bucket=BUCKET)


def main():
    s3.create_bucket(Bucket=BUCKET)
    cases = [(n, f) for n, f in list(globals().items()) if n.startswith("case_")]
    for name, case in cases:
        try:
            case()
        except BaseException:
            print(f"FAILED: {name}", file=sys.stderr)
            raise
    empty()
    print(f"boto3 {boto3.__version__}: {len(cases)} cases passed")


main()
