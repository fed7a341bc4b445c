"""What infra/stores lets each role do, on an S3 server that asks its policies before every request.

The server is moto's. It decides by action and resource and passes over all conditions but ``StringEquals``, so it would
let every role list every prefix. ``Team`` holds them itself, by ``fnmatch``, which is what ``StringLike`` does: against
what is listed, and against each key that is asked for and isn't there, since AWS says so to those alone who may list
that key and tells others that it isn't permitted.

moto deploys a template only beside packages that nothing else here needs (cfn-lint among them), and of this one neither
the bucket's policy nor its lifecycle. So the users here get the documents of policies/, which are compared with the
template's and Terraform's, and the rest of the template is read. Nor does moto ask whether a copy's source may be read.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from string import Template
from typing import Any

import boto3
import pytest
import yaml
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, ReadTimeoutError

from benchmarks.made_release import publish_made
from medsynth_core.config import Paths
from medsynth_core.errors import InputError, StoreError, TransientError, WithdrawnError
from medsynth_core.progress import silent
from medsynth_core.release import open_release
from medsynth_core.release.verify import verify
from medsynth_core.storage.completion import standing_shards
from medsynth_core.storage.content import content_key
from medsynth_core.storage.index import read_entry
from medsynth_core.storage.reports import put_report, report_key
from medsynth_core.storage.settings import StoreConfig
from medsynth_core.storage.store import PROBE, ObjectStore, StoredObject, open_store
from medsynth_core.storage.stores import s3
from medsynth_core.storage.stores.s3 import S3Store
from medsynth_core.storage.withdrawn import withdraw
from medsynth_core.synthesis import stage
from medsynth_core.synthesis.published import MODELS
from medsynth_core.synthesis.settings import SynthesisParams
from medsynth_core.synthesis.work import Work
from medsynth_core.workspace.garbage import collect_garbage, find_garbage
from medsynth_core.workspace.init import init_workspace
from medsynth_core.workspace.record import record_release
from medsynth_core.workspace.stages import workspace_paths
from medsynth_core.workspace.tree import Config

pytestmark = pytest.mark.integration

STORES = Path(__file__).parents[2] / "infra" / "stores"
ROLES = ("writer", "reader", "gc")
BUCKET, PREFIX, TAG = "roles", "team/data/", "synthetic-cxr-v1"
HASH = "ab" * 16
IMAGE, LIST, MODEL = f"files/md5/ab/{HASH[2:]}", f"files/md5/ab/{HASH[2:]}.dir", f"{MODELS}ab/{'ab' * 31}"
RECORD, PLAN, RUN = "runs/other/shards/00000.json", "runs/other/plan.json", "runs/other/run.json"
RELEASE, MARK, PAGE = f"releases/{TAG}.json", f"withdrawn/{HASH}.dir.json", report_key(TAG)
IN_STORE = (IMAGE, LIST, MODEL, RECORD, PLAN, RUN, RELEASE, MARK, PAGE)
OUTSIDE = ("elsewhere", "team/other", "team/database/files/md5/ab/cd")


def policy(name: str) -> dict[str, Any]:
    """Returns a document of infra/stores/policies for the bucket of these tests."""
    text = (STORES / "policies" / f"{name}.json").read_text("utf-8")
    rendered: dict[str, Any] = json.loads(Template(text).substitute(Partition="aws", Bucket=BUCKET, Prefix=PREFIX))
    return rendered


def may_list(role: str, prefix: str) -> bool:
    """Returns whether the conditions of a role's policy let it list a prefix."""
    found: list[str] = []
    for statement in policy(role)["Statement"]:
        if statement["Action"] == "s3:ListBucket":
            patterns = statement["Condition"]["StringLike"]["s3:prefix"]
            found += [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatchcase(prefix, pattern) for pattern in found)


class Team:
    """Those who work with one store, each with the keys of one role."""

    def __init__(self, config: StoreConfig, keys: dict[str, tuple[str, str]], patch: pytest.MonkeyPatch) -> None:
        self.config, self._keys, self._patch = config, keys, patch
        self._role = ""
        without_conditions, without_asking = S3Store.list, S3Store.size

        def listed(store: S3Store, prefix: str) -> Iterator[StoredObject]:
            self._must_be_listable(prefix)
            return without_conditions(store, prefix)

        def size(store: S3Store, key: str) -> int | None:
            if (found := without_asking(store, key)) is None:
                self._must_be_listable(key)
            return found

        patch.setattr(S3Store, "list", listed)
        patch.setattr(S3Store, "size", size)
        patch.setenv("AWS_ENDPOINT_URL", str(config.endpoint_url))

    def _must_be_listable(self, prefix: str) -> None:
        assert may_list(self._role, PREFIX + prefix), f"{self._role} may not list {prefix}"

    def store(self, role: str) -> ObjectStore:
        """Becomes a role and returns its store, which must be used before another becomes one."""
        self._role = role
        for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), self._keys[role], strict=True):
            self._patch.setenv(name, value)
        return open_store(self.config, Path())

    def client(self, role: str, service: str = "s3") -> Any:
        """Returns a client with the keys of a role."""
        key, secret = self._keys[role]
        return boto3.client(
            service,
            endpoint_url=self.config.endpoint_url,
            region_name=self.config.region,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
        )

    def unfinished(self) -> list[str]:
        """Returns the uploads that were begun and not ended."""
        uploads = self.client("admin").list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
        return [upload["UploadId"] for upload in uploads]


@pytest.fixture(scope="module")
def team(guarded: tuple[StoreConfig, str, str]) -> Iterator[Team]:
    """A store with a bucket of its own, with a user for each role."""
    server, key, secret = guarded
    config = StoreConfig(url=f"s3://{BUCKET}/{PREFIX}", endpoint_url=server.endpoint_url, region=server.region)
    keys = {"admin": (key, secret)}
    with pytest.MonkeyPatch.context() as patch:
        made = Team(config, keys, patch)
        bucket, iam = made.client("admin"), made.client("admin", "iam")
        bucket.create_bucket(Bucket=BUCKET)
        bucket.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        for role in ROLES:
            iam.create_user(UserName=role)
            document = json.dumps(policy(role))
            arn = iam.create_policy(PolicyName=role, PolicyDocument=document)["Policy"]["Arn"]
            iam.attach_user_policy(UserName=role, PolicyArn=arn)
            access = iam.create_access_key(UserName=role)["AccessKey"]
            keys[role] = access["AccessKeyId"], access["SecretAccessKey"]
        for place in OUTSIDE:
            bucket.put_object(Bucket=BUCKET, Key=place, Body=b"of somebody else")
        yield made


@pytest.fixture(scope="module")
def workspace(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose release the writer published."""
    root = tmp_path_factory.mktemp("roles") / "team"
    config = Config().model_copy(update={"store": team.config})
    store = team.store("writer")
    store.check_writable()
    init_workspace(root, config)
    publish_made(config, workspace_paths(root), store, "a" * 32, (5, 3), n_rejected=1)
    assert record_release(root, store) == TAG
    put_report(store, TAG, b"<p>page", b"{}")
    return root


def refused(team: Team, role: str, operation: str, **arguments: Any) -> None:
    with pytest.raises(ClientError) as caught:
        getattr(team.client(role), operation)(Bucket=BUCKET, **arguments)
    assert caught.value.response["Error"]["Code"] == "AccessDenied"


def test_a_writer_plans_a_run_works_at_it_and_publishes(
    trained: tuple[Config, Paths], team: Team, workspace: Path, tmp_path: Path
) -> None:
    store = team.store("writer")
    run = stage.publish_round(SynthesisParams.of(trained[0]), trained[1], store).plan.run_id
    worker, plan = stage.open_published(store, run, tmp_path, "cpu")
    report = Work(worker.make, plan, store).run()
    assert (report.made, report.missing, report.failed) == (plan.n_shards, 0, {})
    assert len(standing_shards(store, run)) == plan.n_shards
    assert store.put("runs/x/once", b"1", if_absent=True)
    assert not store.put("runs/x/once", b"2", if_absent=True)
    assert (store.get("runs/x/once"), store.get_range("runs/x/once", 0, 1)) == (b"1", b"1")
    assert read_entry(store, TAG).tag == TAG


def test_a_writer_sends_in_parts_and_need_not_abort(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused after a part failed must not hide why it failed; the parts are left for gc or the lifecycle."""
    monkeypatch.setattr(s3, "_IN_PARTS", TransferConfig(multipart_threshold=6 * 2**20, multipart_chunksize=5 * 2**20))
    store, key, data = team.store("writer"), "files/md5/cd/large", bytes(11 * 2**20)
    store.put(key, data)
    assert store.get(key) == data
    assert team.client("admin").head_object(Bucket=BUCKET, Key=PREFIX + key)["ETag"].endswith('-3"'), "in three parts"

    def fails(**_: Any) -> None:
        raise ReadTimeoutError(endpoint_url="the server")

    assert isinstance(store, S3Store)
    store._client.meta.events.register("before-call.s3.UploadPart", fails)
    with pytest.raises(TransientError, match="Read timeout"):
        store.put("files/md5/cd/broken", data)
    (left,) = team.unfinished()
    for role in ("writer", "reader"):
        refused(team, role, "abort_multipart_upload", Key=f"{PREFIX}files/md5/cd/broken", UploadId=left)


def test_a_reader_opens_releases_and_hears_of_a_withdrawal(
    team: Team, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    team.store("reader")
    with caplog.at_level(logging.WARNING):
        for rev in (TAG, None):
            release = open_release(team.config.url, rev)
            assert len(release.manifest()) == 6
            assert len(release.rejected()) == 2
            assert len([item["image"] for item in release.stream()]) == len(release.dataset()) == 6
    assert not caplog.records, "that it wasn't withdrawn must be known"
    assert verify(release, silent)
    with pytest.raises(InputError, match="no release 'synthetic-cxr-v2'; it has synthetic-cxr-v1"):
        open_release(team.config.url, "synthetic-cxr-v2")
    store = team.store("writer")
    mark = withdraw(store, read_entry(store, TAG), "a copy was found")
    team.store("reader")
    with pytest.raises(WithdrawnError, match="a copy was found"):
        open_release(team.config.url, TAG)
    team.client("admin").delete_object(Bucket=BUCKET, Key=f"{PREFIX}withdrawn/{mark.dir_md5}.json")


def test_gc_deletes_what_nothing_names_and_no_version(
    trained: tuple[Config, Paths], team: Team, workspace: Path
) -> None:
    """With a bucket's versions on, what it deletes lies there until the lifecycle takes it away."""
    store = team.store("writer")
    run = stage.publish_round(SynthesisParams.of(trained[0]), trained[1], store).plan.run_id
    for key in (IMAGE, MODEL, RECORD):
        store.put(key, b"{}")
    team.client("writer").create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}files/md5/ef/broken")
    store = team.store("gc")
    garbage = find_garbage(workspace, store, timedelta(0), runs=True)
    keys = {each.key for each in (*garbage.objects, *garbage.runs)}
    assert {IMAGE, MODEL, RECORD, f"runs/{run}/run.json", f"runs/{run}/plan.json"} <= keys
    assert garbage.uploads
    collect_garbage(store, garbage)
    left = find_garbage(workspace, store, timedelta(0), runs=True)
    assert not (*left.objects, *left.runs, *left.uploads)
    versions = team.client("admin").list_object_versions(Bucket=BUCKET, Prefix=PREFIX + IMAGE)
    (version,) = versions["Versions"]
    refused(team, "gc", "delete_object", Key=PREFIX + IMAGE, VersionId=version["VersionId"])
    team.store("reader")
    assert len(open_release(team.config.url, TAG).manifest()) == 6


PUT, GET, DELETE = "put_object", "get_object", "delete_object"
REFUSED = [
    *(("writer", DELETE, key) for key in IN_STORE),
    *(("writer", operation, key) for operation in (PUT, GET, DELETE) for key in OUTSIDE),
    *(("reader", GET, key) for key in (MODEL, RECORD, PLAN, RUN, PAGE, PROBE, *OUTSIDE)),
    *(("reader", operation, key) for operation in (PUT, DELETE) for key in (*IN_STORE, *OUTSIDE)),
    *(("gc", GET, key) for key in (IMAGE, MODEL, PLAN, MARK, PAGE, *OUTSIDE)),
    *(("gc", PUT, key) for key in (*IN_STORE, *OUTSIDE)),
    *(("gc", DELETE, key) for key in (RELEASE, MARK, PAGE, *OUTSIDE)),
]


@pytest.mark.parametrize(("role", "operation", "key"), REFUSED)
def test_beyond_its_job_an_object_is_refused(team: Team, role: str, operation: str, key: str) -> None:
    refused(team, role, operation, Key=key if key in OUTSIDE else PREFIX + key)


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_many_at_once_are_refused_too(team: Team, role: str) -> None:
    keys = [PREFIX + IMAGE, *OUTSIDE]
    done = team.client(role).delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    assert [each["Code"] for each in done["Errors"]] == ["AccessDenied"] * len(keys)


TLS_OFF: dict[str, Any] = {"Policy": json.dumps({"Version": "2012-10-17", "Statement": []})}
VERSIONS_OFF: dict[str, Any] = {"VersioningConfiguration": {"Status": "Suspended"}}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("put_bucket_policy", TLS_OFF),
        ("delete_bucket_policy", {}),
        ("put_bucket_versioning", VERSIONS_OFF),
        ("put_bucket_lifecycle_configuration", {"LifecycleConfiguration": {"Rules": []}}),
        ("list_object_versions", {}),
        ("get_object", {"Key": PREFIX + IMAGE, "VersionId": "1"}),
        ("put_object_acl", {"Key": PREFIX + IMAGE, "ACL": "public-read"}),
        ("delete_bucket", {}),
    ],
)
def test_no_role_changes_the_bucket(team: Team, role: str, operation: str, arguments: dict[str, Any]) -> None:
    refused(team, role, operation, **arguments)


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_unfinished_uploads_are_gcs_alone(team: Team, role: str) -> None:
    refused(team, role, "list_multipart_uploads")


@pytest.mark.parametrize("role", ROLES)
def test_another_bucket_is_refused(team: Team, role: str) -> None:
    team.store(role)
    store = open_store(team.config.model_copy(update={"url": "s3://bucket/data"}), Path())
    with pytest.raises(StoreError, match=r"ListObjectsV2 not permitted \(AccessDenied\)"):
        list(store.list("releases/"))


@pytest.mark.parametrize(
    ("role", "prefix"),
    [
        *((role, prefix) for role in ROLES for prefix in ("", "team/", "team/data", "team/database/", "elsewhere")),
        *(("reader", PREFIX + prefix) for prefix in ("", "runs/", MODELS, "files/md5/", "reports/", "rel")),
        *(("gc", PREFIX + prefix) for prefix in ("", "reports/")),
    ],
)
def test_no_condition_lets_more_be_listed(role: str, prefix: str) -> None:
    assert not may_list(role, prefix)


class _Reader(yaml.SafeLoader):
    """Reads a template of CloudFormation; what its functions are given stands for what they return."""


def _given(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node).replace("${AWS::Partition}", "${Partition}")
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None


_Reader.add_multi_constructor("!", _given)


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    text = (STORES / "cloudformation.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.load(text, _Reader)["Resources"]
    return found


@pytest.mark.parametrize(
    ("name", "resource"),
    [("writer", "WriterPolicy"), ("reader", "ReaderPolicy"), ("gc", "GcPolicy"), ("tls-only", "TlsOnly")],
)
def test_cloudformation_has_the_same_policies(resources: dict[str, Any], name: str, resource: str) -> None:
    text = (STORES / "policies" / f"{name}.json").read_text("utf-8")
    assert resources[resource]["Properties"]["PolicyDocument"] == json.loads(text)


def test_cloudformation_hangs_each_policy_on_its_role(resources: dict[str, Any]) -> None:
    for role in ("Writer", "Reader", "Gc"):
        assert resources[f"{role}Policy"]["Properties"]["Roles"] == [f"{role}Role"]


def test_terraform_reads_the_same_policies() -> None:
    text = (STORES / "terraform" / "main.tf").read_text("utf-8")
    roles = re.search(r"roles = \{\n(.*?)\n  \}", text, re.DOTALL)
    assert roles is not None
    assert set(re.findall(r"^    (\w+) +=", roles[1], re.MULTILINE)) == set(ROLES)
    read = [line.split("=", 1)[1].strip() for line in text.splitlines() if re.match(r" +policy +=", line)]
    assert sorted(read) == [
        'templatefile("${path.module}/../policies/${each.key}.json", local.places)',
        'templatefile("${path.module}/../policies/tls-only.json", local.places)',
    ]
    assert {path.stem for path in (STORES / "policies").iterdir()} == {*ROLES, "tls-only"}


def test_the_bucket_is_closed_and_frees_what_gc_deletes(resources: dict[str, Any]) -> None:
    about = resources["Store"]["Properties"]
    assert about["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(about["PublicAccessBlockConfiguration"].values()) == {True}
    uploads, versions = about["LifecycleConfiguration"]["Rules"]
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": "AbortDays"}
    assert versions["NoncurrentVersionExpiration"] == {"NoncurrentDays": "NoncurrentDays"}
    assert resources["TlsOnly"]["Properties"]["Bucket"] == "Store"
    assert content_key(HASH) == IMAGE, "the keys of these tests are those of a store"
