variable "bucket" {
  description = "Name of the bucket, which is made"
  type        = string
}

variable "prefix" {
  description = "Of the store in the bucket, with the slash at its end; store.url is then s3://BUCKET/PREFIX. Empty for the whole bucket"
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([A-Za-z0-9._-]+/)*$", var.prefix))
    error_message = "A prefix ends with a slash and has letters, digits, dots, underscores and hyphens, as in team/data/."
  }
}

variable "principals" {
  description = "ARNs of those who may take the roles. Empty for whom IAM lets do so in this account (sts:AssumeRole)"
  type        = list(string)
  default     = []
}

variable "abort_days" {
  description = "After so many days the parts of an upload that never ended are freed"
  type        = number
  default     = 7
}

variable "noncurrent_days" {
  description = "For so many days what was deleted or overwritten can be had back"
  type        = number
  default     = 30
}
