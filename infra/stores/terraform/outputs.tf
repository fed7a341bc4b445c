output "store_url" {
  description = "For store.url"
  value       = "s3://${aws_s3_bucket.store.bucket}/${var.prefix}"
}

output "policies" {
  description = "For the roles that machines of yours have already"
  value       = { for role, policy in aws_iam_policy.store : role => policy.arn }
}

output "roles" {
  value = { for name, role in aws_iam_role.store : name => role.arn }
}
