// Package ec2 is an emulated Amazon cloud for tests: EC2 and what bakes need
// of STS, IAM, SSM, KMS, Secrets Manager, S3, Service Quotas, EC2 Instance
// Connect and the instance metadata service, spoken to over HTTP by the genuine
// SDKs. Behind its instances stand real machines with real SSH servers
// (package machines), and its images, snapshots and volumes have real content.
//
// The endpoint is one address for all services; service and region are taken
// from the signature's credential scope. That the access key is known is
// checked, the signature itself is not: any secret key passes.
//
// All addresses that it hands out are loopback addresses, private ones too,
// and the DNS names of instances are these addresses again, since no name
// server knows any.
//
// Time: states change after Options.Durations, divided by Options.Speed.
package ec2
