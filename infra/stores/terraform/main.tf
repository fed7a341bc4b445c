# A bucket for a medsynth store, and a role for each who works with it: what ../cloudformation.yaml makes, which says of
# each policy why it is as it is.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

data "aws_partition" "here" {}
data "aws_caller_identity" "here" {}

locals {
  roles = {
    writer = "Lists, reads and writes a medsynth store, deletes nothing"
    reader = "Reads the releases of a medsynth store"
    gc     = "Deletes from a medsynth store what nothing names"
  }
  places = {
    Partition = data.aws_partition.here.partition
    Bucket    = var.bucket
    Prefix    = var.prefix
  }
  anyone_here = ["arn:${data.aws_partition.here.partition}:iam::${data.aws_caller_identity.here.account_id}:root"]
}

resource "aws_s3_bucket" "store" {
  #checkov:skip=CKV_AWS_18: where access logs go is the account's matter, and CloudTrail's data events have more
  #checkov:skip=CKV2_AWS_62: nothing waits for an object; what happens is told by Prefect
  #checkov:skip=CKV_AWS_144: a second region doubles the bill, and what is here can be made again
  #checkov:skip=CKV_AWS_145: with a key of one's own in KMS the roles need rights to that key too
  bucket = var.bucket

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# A writer can overwrite and gc can delete, and neither can remove a version. So `medsynth gc --delete` frees nothing by
# itself: what it deletes becomes a noncurrent version, and the rule below removes that after noncurrent_days. The same
# goes for what has to go for a patient's sake.
resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket     = aws_s3_bucket.store.id
  depends_on = [aws_s3_bucket_versioning.store]

  rule {
    id     = "unfinished-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = var.abort_days
    }
  }

  rule {
    id     = "noncurrent-versions"
    status = "Enabled"
    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }
}

resource "aws_s3_bucket_policy" "tls_only" {
  bucket     = aws_s3_bucket.store.id
  policy     = templatefile("${path.module}/../policies/tls-only.json", local.places)
  depends_on = [aws_s3_bucket_public_access_block.store]
}

resource "aws_iam_policy" "store" {
  for_each    = local.roles
  name_prefix = "medsynth-${each.key}-"
  description = each.value
  policy      = templatefile("${path.module}/../policies/${each.key}.json", local.places)
}

resource "aws_iam_role" "store" {
  for_each    = local.roles
  name_prefix = "medsynth-${each.key}-"
  description = each.value
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { AWS = length(var.principals) > 0 ? var.principals : local.anyone_here }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "store" {
  for_each   = local.roles
  role       = aws_iam_role.store[each.key].name
  policy_arn = aws_iam_policy.store[each.key].arn
}
