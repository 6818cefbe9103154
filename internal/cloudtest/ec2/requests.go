//go:build linux

package ec2

// The requests of EC2's query interface, version 2016-11-15. The fields are
// named as the parameters are; decodeQuery fills them. What EC2 knows and this
// emulator does not act upon stands here too, so that it is not refused as
// unknown. Empty parameters count as absent.

type acceleratorCountRequest struct {
	Max *int64
	Min *int64
}

type acceleratorTotalMemoryMiBRequest struct {
	Max *int64
	Min *int64
}

type attachVolumeRequest struct {
	Device       string
	DryRun       *bool
	EbsCardIndex *int64
	InstanceId   string
	VolumeId     string
}

type attributeBooleanValue struct {
	Value *bool
}

type attributeValue struct {
	Value string
}

type authorizeSecurityGroupEgressRequest struct {
	CidrIp                     string
	DryRun                     *bool
	FromPort                   *int64
	GroupId                    string
	IpPermissions              []ipPermission
	IpProtocol                 string
	SourceSecurityGroupName    string
	SourceSecurityGroupOwnerId string
	TagSpecification           []tagSpecification
	ToPort                     *int64
}

type authorizeSecurityGroupIngressRequest struct {
	CidrIp                     string
	DryRun                     *bool
	FromPort                   *int64
	GroupId                    string
	GroupName                  string
	IpPermissions              []ipPermission
	IpProtocol                 string
	SourceSecurityGroupName    string
	SourceSecurityGroupOwnerId string
	TagSpecification           []tagSpecification
	ToPort                     *int64
}

type baselineEbsBandwidthMbpsRequest struct {
	Max *int64
	Min *int64
}

type baselinePerformanceFactorsRequest struct {
	Cpu *cpuPerformanceFactorRequest
}

type blockDeviceMapping struct {
	DeviceName  string
	Ebs         *ebsBlockDevice
	NoDevice    string
	VirtualName string
}

type cancelImportTaskRequest struct {
	CancelReason string
	DryRun       *bool
	ImportTaskId string
}

type cancelSpotInstanceRequestsRequest struct {
	DryRun                *bool
	SpotInstanceRequestId []string
}

type capacityReservationOptionsRequest struct {
	UsageStrategy string
}

type capacityReservationSpecification struct {
	CapacityReservationPreference string
	CapacityReservationTarget     *capacityReservationTarget
}

type capacityReservationTarget struct {
	CapacityReservationId               string
	CapacityReservationResourceGroupArn string
}

type clientData struct {
	Comment     string
	UploadEnd   string
	UploadSize  string
	UploadStart string
}

type connectionTrackingSpecificationRequest struct {
	TcpEstablishedTimeout *int64
	UdpStreamTimeout      *int64
	UdpTimeout            *int64
}

type copyImageRequest struct {
	ClientToken                           string
	CopyImageTags                         *bool
	Description                           string
	DestinationAvailabilityZone           string
	DestinationAvailabilityZoneId         string
	DestinationOutpostArn                 string
	DryRun                                *bool
	Encrypted                             *bool
	KmsKeyId                              string
	Name                                  string
	SnapshotCopyCompletionDurationMinutes *int64
	SourceImageId                         string
	SourceRegion                          string
	TagSpecification                      []tagSpecification
}

type copySnapshotRequest struct {
	CompletionDurationMinutes   *int64
	Description                 string
	DestinationAvailabilityZone string
	DestinationOutpostArn       string
	DestinationRegion           string
	DryRun                      *bool
	Encrypted                   *bool
	KmsKeyId                    string
	PresignedUrl                string
	SourceRegion                string
	SourceSnapshotId            string
	TagSpecification            []tagSpecification
}

type cpuOptionsRequest struct {
	AmdSevSnp            string
	CoreCount            *int64
	NestedVirtualization string
	ThreadsPerCore       *int64
}

type cpuPerformanceFactorRequest struct {
	Reference []performanceFactorReferenceRequest
}

type createFleetRequest struct {
	ClientToken                      string
	Context                          string
	DryRun                           *bool
	ExcessCapacityTerminationPolicy  string
	LaunchTemplateConfigs            []fleetLaunchTemplateConfigRequest
	OnDemandOptions                  *onDemandOptionsRequest
	ReplaceUnhealthyInstances        *bool
	ReservedCapacityOptions          *reservedCapacityOptionsRequest
	SpotOptions                      *spotOptionsRequest
	TagSpecification                 []tagSpecification
	TargetCapacitySpecification      *targetCapacitySpecificationRequest
	TerminateInstancesWithExpiration *bool
	Type                             string
	ValidFrom                        string
	ValidUntil                       string
}

type createImageRequest struct {
	BlockDeviceMapping []blockDeviceMapping
	BootModeOverride   string
	Description        string
	DryRun             *bool
	InstanceId         string
	Name               string
	NoReboot           *bool
	SnapshotLocation   string
	TagSpecification   []tagSpecification
}

type createKeyPairRequest struct {
	DryRun           *bool
	KeyFormat        string
	KeyName          string
	KeyType          string
	TagSpecification []tagSpecification
}

type createLaunchTemplateRequest struct {
	ClientToken        string
	DryRun             *bool
	LaunchTemplateData *requestLaunchTemplateData
	LaunchTemplateName string
	Operator           *operatorRequest
	TagSpecification   []tagSpecification
	VersionDescription string
}

type createLaunchTemplateVersionRequest struct {
	ClientToken        string
	DryRun             *bool
	LaunchTemplateData *requestLaunchTemplateData
	LaunchTemplateId   string
	LaunchTemplateName string
	ResolveAlias       *bool
	SourceVersion      string
	VersionDescription string
}

type createSecurityGroupRequest struct {
	GroupDescription string
	DryRun           *bool
	GroupName        string
	TagSpecification []tagSpecification
	VpcId            string
}

type createSnapshotRequest struct {
	Description      string
	DryRun           *bool
	Location         string
	OutpostArn       string
	TagSpecification []tagSpecification
	VolumeId         string
}

type createSubnetRequest struct {
	AvailabilityZone   string
	AvailabilityZoneId string
	CidrBlock          string
	DryRun             *bool
	Ipv4IpamPoolId     string
	Ipv4NetmaskLength  *int64
	Ipv6CidrBlock      string
	Ipv6IpamPoolId     string
	Ipv6Native         *bool
	Ipv6NetmaskLength  *int64
	OutpostArn         string
	TagSpecification   []tagSpecification
	VpcId              string
}

type createTagsRequest struct {
	DryRun     *bool
	ResourceId []string
	Tag        []tag
}

type createVolumePermission struct {
	Group  string
	UserId string
}

type createVolumePermissionModifications struct {
	Add    []createVolumePermission
	Remove []createVolumePermission
}

type createVolumeRequest struct {
	AvailabilityZone         string
	AvailabilityZoneId       string
	ClientToken              string
	DryRun                   *bool
	Encrypted                *bool
	Iops                     *int64
	KmsKeyId                 string
	MultiAttachEnabled       *bool
	Operator                 *operatorRequest
	OutpostArn               string
	Size                     *int64
	SnapshotId               string
	TagSpecification         []tagSpecification
	Throughput               *int64
	VolumeInitializationRate *int64
	VolumeType               string
}

type createVpcRequest struct {
	AmazonProvidedIpv6CidrBlock     *bool
	CidrBlock                       string
	DryRun                          *bool
	InstanceTenancy                 string
	Ipv4IpamPoolId                  string
	Ipv4NetmaskLength               *int64
	Ipv6CidrBlock                   string
	Ipv6CidrBlockNetworkBorderGroup string
	Ipv6IpamPoolId                  string
	Ipv6NetmaskLength               *int64
	Ipv6Pool                        string
	TagSpecification                []tagSpecification
	VpcEncryptionControl            *vpcEncryptionControlConfiguration
}

type creditSpecificationRequest struct {
	CpuCredits string
}

type deleteFleetsRequest struct {
	DryRun             *bool
	FleetId            []string
	TerminateInstances *bool
}

type deleteKeyPairRequest struct {
	DryRun    *bool
	KeyName   string
	KeyPairId string
}

type deleteLaunchTemplateRequest struct {
	DryRun             *bool
	LaunchTemplateId   string
	LaunchTemplateName string
}

type deleteSecurityGroupRequest struct {
	DryRun    *bool
	GroupId   string
	GroupName string
}

type deleteSnapshotRequest struct {
	DryRun     *bool
	SnapshotId string
}

type deleteSubnetRequest struct {
	DryRun   *bool
	SubnetId string
}

type deleteTagsRequest struct {
	DryRun     *bool
	ResourceId []string
	Tag        []tag
}

type deleteVolumeRequest struct {
	DryRun   *bool
	VolumeId string
}

type deleteVpcRequest struct {
	DryRun *bool
	VpcId  string
}

type deregisterImageRequest struct {
	DeleteAssociatedSnapshots *bool
	DryRun                    *bool
	ImageId                   string
}

type describeAccountAttributesRequest struct {
	AttributeName []string
	DryRun        *bool
}

type describeAvailabilityZonesRequest struct {
	AllAvailabilityZones *bool
	DryRun               *bool
	Filter               []filter
	ZoneId               []string
	ZoneName             []string
}

type describeFastLaunchImagesRequest struct {
	DryRun     *bool
	Filter     []filter
	ImageId    []string
	MaxResults *int64
	NextToken  string
}

type describeFleetInstancesRequest struct {
	DryRun     *bool
	Filter     []filter
	FleetId    string
	MaxResults *int64
	NextToken  string
}

type describeFleetsRequest struct {
	DryRun     *bool
	Filter     []filter
	FleetId    []string
	MaxResults *int64
	NextToken  string
}

type describeImageAttributeRequest struct {
	Attribute string
	DryRun    *bool
	ImageId   string
}

type describeImagesRequest struct {
	DryRun            *bool
	ExecutableBy      []string
	Filter            []filter
	ImageId           []string
	IncludeDeprecated *bool
	IncludeDisabled   *bool
	MaxResults        *int64
	NextToken         string
	Owner             []string
}

type describeImportImageTasksRequest struct {
	DryRun       *bool
	Filters      []filter
	ImportTaskId []string
	MaxResults   *int64
	NextToken    string
}

type describeInstanceAttributeRequest struct {
	Attribute  string
	DryRun     *bool
	InstanceId string
}

type describeInstanceStatusRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeAllInstances     *bool
	IncludeManagedResources *bool
	InstanceId              []string
	MaxResults              *int64
	NextToken               string
}

type describeInstanceTypeOfferingsRequest struct {
	DryRun       *bool
	Filter       []filter
	LocationType string
	MaxResults   *int64
	NextToken    string
}

type describeInstanceTypesRequest struct {
	DryRun                     *bool
	Filter                     []filter
	IncludeUnsupportedInRegion *bool
	InstanceType               []string
	MaxResults                 *int64
	NextToken                  string
}

type describeInstancesRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeManagedResources *bool
	InstanceId              []string
	MaxResults              *int64
	NextToken               string
}

type describeKeyPairsRequest struct {
	DryRun           *bool
	Filter           []filter
	IncludePublicKey *bool
	KeyName          []string
	KeyPairId        []string
}

type describeLaunchTemplateVersionsRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeManagedResources *bool
	LaunchTemplateId        string
	LaunchTemplateName      string
	MaxResults              *int64
	MaxVersion              string
	MinVersion              string
	NextToken               string
	ResolveAlias            *bool
	LaunchTemplateVersion   []string
}

type describeLaunchTemplatesRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeManagedResources *bool
	LaunchTemplateId        []string
	LaunchTemplateName      []string
	MaxResults              *int64
	NextToken               string
}

type describeNetworkInterfacesRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeManagedResources *bool
	MaxResults              *int64
	NetworkInterfaceId      []string
	NextToken               string
}

type describeRegionsRequest struct {
	AllRegions *bool
	DryRun     *bool
	Filter     []filter
	RegionName []string
}

type describeSecurityGroupRulesRequest struct {
	DryRun              *bool
	Filter              []filter
	MaxResults          *int64
	NextToken           string
	SecurityGroupRuleId []string
}

type describeSecurityGroupsRequest struct {
	DryRun     *bool
	Filter     []filter
	GroupId    []string
	GroupName  []string
	MaxResults *int64
	NextToken  string
}

type describeSnapshotAttributeRequest struct {
	Attribute  string
	DryRun     *bool
	SnapshotId string
}

type describeSnapshotsRequest struct {
	DryRun       *bool
	Filter       []filter
	MaxResults   *int64
	NextToken    string
	Owner        []string
	RestorableBy []string
	SnapshotId   []string
}

type describeSpotInstanceRequestsRequest struct {
	DryRun                *bool
	Filter                []filter
	MaxResults            *int64
	NextToken             string
	SpotInstanceRequestId []string
}

type describeSpotPriceHistoryRequest struct {
	AvailabilityZone   string
	AvailabilityZoneId string
	DryRun             *bool
	EndTime            string
	Filter             []filter
	InstanceType       []string
	MaxResults         *int64
	NextToken          string
	ProductDescription []string
	StartTime          string
}

type describeSubnetsRequest struct {
	DryRun     *bool
	Filter     []filter
	MaxResults *int64
	NextToken  string
	SubnetId   []string
}

type describeTagsRequest struct {
	DryRun     *bool
	Filter     []filter
	MaxResults *int64
	NextToken  string
}

type describeVolumesModificationsRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeManagedResources *bool
	MaxResults              *int64
	NextToken               string
	VolumeId                []string
}

type describeVolumesRequest struct {
	DryRun                  *bool
	Filter                  []filter
	IncludeManagedResources *bool
	MaxResults              *int64
	NextToken               string
	VolumeId                []string
}

type describeVpcsRequest struct {
	DryRun     *bool
	Filter     []filter
	MaxResults *int64
	NextToken  string
	VpcId      []string
}

type detachVolumeRequest struct {
	Device     string
	DryRun     *bool
	Force      *bool
	InstanceId string
	VolumeId   string
}

type disableEbsEncryptionByDefaultRequest struct {
	DryRun *bool
}

type disableFastLaunchRequest struct {
	DryRun  *bool
	Force   *bool
	ImageId string
}

type disableImageDeprecationRequest struct {
	DryRun  *bool
	ImageId string
}

type disableImageDeregistrationProtectionRequest struct {
	DryRun  *bool
	ImageId string
}

type disableImageRequest struct {
	DryRun  *bool
	ImageId string
}

type ebsBlockDevice struct {
	AvailabilityZone         string
	AvailabilityZoneId       string
	DeleteOnTermination      *bool
	EbsCardIndex             *int64
	Encrypted                *bool
	Iops                     *int64
	KmsKeyId                 string
	OutpostArn               string
	SnapshotId               string
	Throughput               *int64
	VolumeInitializationRate *int64
	VolumeSize               *int64
	VolumeType               string
}

type ebsInstanceBlockDeviceSpecification struct {
	DeleteOnTermination *bool
	VolumeId            string
}

type elasticGpuSpecification struct {
	Type string
}

type elasticInferenceAccelerator struct {
	Count *int64
	Type  string
}

type enaSrdSpecificationRequest struct {
	EnaSrdEnabled          *bool
	EnaSrdUdpSpecification *enaSrdUdpSpecificationRequest
}

type enaSrdUdpSpecificationRequest struct {
	EnaSrdUdpEnabled *bool
}

type enableEbsEncryptionByDefaultRequest struct {
	DryRun *bool
}

type enableFastLaunchRequest struct {
	DryRun                *bool
	ImageId               string
	LaunchTemplate        *fastLaunchLaunchTemplateSpecificationRequest
	MaxParallelLaunches   *int64
	ResourceType          string
	SnapshotConfiguration *fastLaunchSnapshotConfigurationRequest
}

type enableImageDeprecationRequest struct {
	DeprecateAt string
	DryRun      *bool
	ImageId     string
}

type enableImageDeregistrationProtectionRequest struct {
	DryRun       *bool
	ImageId      string
	WithCooldown *bool
}

type enableImageRequest struct {
	DryRun  *bool
	ImageId string
}

type enclaveOptionsRequest struct {
	Enabled *bool
}

type fastLaunchLaunchTemplateSpecificationRequest struct {
	LaunchTemplateId   string
	LaunchTemplateName string
	Version            string
}

type fastLaunchSnapshotConfigurationRequest struct {
	TargetResourceCount *int64
}

type filter struct {
	Name  string
	Value []string
}

type fleetBlockDeviceMappingRequest struct {
	DeviceName  string
	Ebs         *fleetEbsBlockDeviceRequest
	NoDevice    string
	VirtualName string
}

type fleetCapacityReservationTargetRequest struct {
	CapacityReservationId               []string
	CapacityReservationResourceGroupArn []string
}

type fleetEbsBlockDeviceRequest struct {
	DeleteOnTermination *bool
	Encrypted           *bool
	Iops                *int64
	KmsKeyId            string
	SnapshotId          string
	Throughput          *int64
	VolumeSize          *int64
	VolumeType          string
}

type fleetIamInstanceProfileSpecificationRequest struct {
	Arn  string
	Name string
}

type fleetInstanceMetadataOptionsRequest struct {
	HttpEndpoint            string
	HttpPutResponseHopLimit *int64
	HttpTokens              string
}

type fleetLaunchTemplateConfigRequest struct {
	LaunchTemplateSpecification *fleetLaunchTemplateSpecificationRequest
	Overrides                   []fleetLaunchTemplateOverridesRequest
}

type fleetLaunchTemplateOverridesRequest struct {
	AvailabilityZone     string
	AvailabilityZoneId   string
	BlockDeviceMapping   []fleetBlockDeviceMappingRequest
	IamInstanceProfile   *fleetIamInstanceProfileSpecificationRequest
	ImageId              string
	InstanceRequirements *instanceRequirementsRequest
	InstanceType         string
	KeyName              string
	MaxPrice             string
	MetadataOptions      *fleetInstanceMetadataOptionsRequest
	Placement            *placement
	Priority             string
	SubnetId             string
	WeightedCapacity     string
}

type fleetLaunchTemplateSpecificationRequest struct {
	LaunchTemplateId                    string
	LaunchTemplateName                  string
	LaunchTemplateSpecificationUserData string
	Version                             string
}

type fleetSpotCapacityRebalanceRequest struct {
	ReplacementStrategy string
	TerminationDelay    *int64
}

type fleetSpotMaintenanceStrategiesRequest struct {
	CapacityRebalance *fleetSpotCapacityRebalanceRequest
}

type getConsoleOutputRequest struct {
	DryRun     *bool
	InstanceId string
	Latest     *bool
}

type getEbsDefaultKmsKeyIdRequest struct {
	DryRun *bool
}

type getEbsEncryptionByDefaultRequest struct {
	DryRun *bool
}

type hibernationOptionsRequest struct {
	Configured *bool
}

type iamInstanceProfileSpecification struct {
	Arn  string
	Name string
}

type imageDiskContainer struct {
	Description string
	DeviceName  string
	Format      string
	SnapshotId  string
	Url         string
	UserBucket  *userBucket
}

type importImageLicenseConfigurationRequest struct {
	LicenseConfigurationArn string
}

type importImageRequest struct {
	Architecture          string
	BootMode              string
	ClientData            *clientData
	ClientToken           string
	Description           string
	DiskContainer         []imageDiskContainer
	DryRun                *bool
	Encrypted             *bool
	Hypervisor            string
	KmsKeyId              string
	LicenseSpecifications []importImageLicenseConfigurationRequest
	LicenseType           string
	Platform              string
	RoleName              string
	TagSpecification      []tagSpecification
	UsageOperation        string
}

type importKeyPairRequest struct {
	DryRun            *bool
	KeyName           string
	PublicKeyMaterial string
	TagSpecification  []tagSpecification
}

type instanceBlockDeviceMappingSpecification struct {
	DeviceName  string
	Ebs         *ebsInstanceBlockDeviceSpecification
	NoDevice    string
	VirtualName string
}

type instanceIpv6Address struct {
	Ipv6Address   string
	IsPrimaryIpv6 *bool
}

type instanceIpv6AddressRequest struct {
	Ipv6Address string
}

type instanceMaintenanceOptionsRequest struct {
	AutoRecovery string
}

type instanceMarketOptionsRequest struct {
	MarketType  string
	SpotOptions *spotMarketOptions
}

type instanceMetadataOptionsRequest struct {
	HttpEndpoint            string
	HttpProtocolIpv6        string
	HttpPutResponseHopLimit *int64
	HttpTokens              string
	InstanceMetadataTags    string
}

type instanceNetworkInterfaceSpecification struct {
	AssociateCarrierIpAddress       *bool
	AssociatePublicIpAddress        *bool
	ConnectionTrackingSpecification *connectionTrackingSpecificationRequest
	DeleteOnTermination             *bool
	Description                     string
	DeviceIndex                     *int64
	EnaQueueCount                   *int64
	EnaSrdSpecification             *enaSrdSpecificationRequest
	SecurityGroupId                 []string
	InterfaceType                   string
	Ipv4PrefixCount                 *int64
	Ipv4Prefix                      []ipv4PrefixSpecificationRequest
	Ipv6AddressCount                *int64
	Ipv6Addresses                   []instanceIpv6Address
	Ipv6PrefixCount                 *int64
	Ipv6Prefix                      []ipv6PrefixSpecificationRequest
	NetworkCardIndex                *int64
	NetworkInterfaceId              string
	PrimaryIpv6                     *bool
	PrivateIpAddress                string
	PrivateIpAddresses              []privateIpAddressSpecification
	SecondaryPrivateIpAddressCount  *int64
	SubnetId                        string
}

type instanceNetworkPerformanceOptionsRequest struct {
	BandwidthWeighting string
}

type instanceRequirementsRequest struct {
	AcceleratorCount                               *acceleratorCountRequest
	AcceleratorManufacturer                        []string
	AcceleratorName                                []string
	AcceleratorTotalMemoryMiB                      *acceleratorTotalMemoryMiBRequest
	AcceleratorType                                []string
	AllowedInstanceType                            []string
	BareMetal                                      string
	BaselineEbsBandwidthMbps                       *baselineEbsBandwidthMbpsRequest
	BaselinePerformanceFactors                     *baselinePerformanceFactorsRequest
	BurstablePerformance                           string
	CpuManufacturer                                []string
	ExcludedInstanceType                           []string
	InstanceGeneration                             []string
	LocalStorage                                   string
	LocalStorageType                               []string
	MaxSpotPriceAsPercentageOfOptimalOnDemandPrice *int64
	MemoryGiBPerVCpu                               *memoryGiBPerVCpuRequest
	MemoryMiB                                      *memoryMiBRequest
	NetworkBandwidthGbps                           *networkBandwidthGbpsRequest
	NetworkInterfaceCount                          *networkInterfaceCountRequest
	OnDemandMaxPricePercentageOverLowestPrice      *int64
	RequireEncryptionInTransit                     *bool
	RequireHibernateSupport                        *bool
	SpotMaxPricePercentageOverLowestPrice          *int64
	TotalLocalStorageGB                            *totalLocalStorageGBRequest
	VCpuCount                                      *vCpuCountRangeRequest
}

type instanceSecondaryInterfacePrivateIpAddressRequest struct {
	PrivateIpAddress string
}

type instanceSecondaryInterfaceSpecificationRequest struct {
	DeleteOnTermination   *bool
	DeviceIndex           *int64
	InterfaceType         string
	NetworkCardIndex      *int64
	PrivateIpAddressCount *int64
	PrivateIpAddress      []instanceSecondaryInterfacePrivateIpAddressRequest
	SecondarySubnetId     string
}

type ipPermission struct {
	FromPort      *int64
	IpProtocol    string
	IpRanges      []ipRange
	Ipv6Ranges    []ipv6Range
	PrefixListIds []prefixListId
	ToPort        *int64
	Groups        []userIdGroupPair
}

type ipRange struct {
	CidrIp      string
	Description string
}

type ipv4PrefixSpecificationRequest struct {
	Ipv4Prefix string
}

type ipv6PrefixSpecificationRequest struct {
	Ipv6Prefix string
}

type ipv6Range struct {
	CidrIpv6    string
	Description string
}

type launchPermission struct {
	Group                 string
	OrganizationalUnitArn string
	OrganizationArn       string
	UserId                string
}

type launchPermissionModifications struct {
	Add    []launchPermission
	Remove []launchPermission
}

type launchTemplateBlockDeviceMappingRequest struct {
	DeviceName  string
	Ebs         *launchTemplateEbsBlockDeviceRequest
	NoDevice    string
	VirtualName string
}

type launchTemplateCapacityReservationSpecificationRequest struct {
	CapacityReservationPreference string
	CapacityReservationTarget     *capacityReservationTarget
}

type launchTemplateCpuOptionsRequest struct {
	AmdSevSnp            string
	CoreCount            *int64
	NestedVirtualization string
	ThreadsPerCore       *int64
}

type launchTemplateEbsBlockDeviceRequest struct {
	DeleteOnTermination      *bool
	EbsCardIndex             *int64
	Encrypted                *bool
	Iops                     *int64
	KmsKeyId                 string
	SnapshotId               string
	Throughput               *int64
	VolumeInitializationRate *int64
	VolumeSize               *int64
	VolumeType               string
}

type launchTemplateElasticInferenceAccelerator struct {
	Count *int64
	Type  string
}

type launchTemplateEnclaveOptionsRequest struct {
	Enabled *bool
}

type launchTemplateHibernationOptionsRequest struct {
	Configured *bool
}

type launchTemplateIamInstanceProfileSpecificationRequest struct {
	Arn  string
	Name string
}

type launchTemplateInstanceMaintenanceOptionsRequest struct {
	AutoRecovery string
}

type launchTemplateInstanceMarketOptionsRequest struct {
	MarketType  string
	SpotOptions *launchTemplateSpotMarketOptionsRequest
}

type launchTemplateInstanceMetadataOptionsRequest struct {
	HttpEndpoint            string
	HttpProtocolIpv6        string
	HttpPutResponseHopLimit *int64
	HttpTokens              string
	InstanceMetadataTags    string
}

type launchTemplateInstanceNetworkInterfaceSpecificationRequest struct {
	AssociateCarrierIpAddress       *bool
	AssociatePublicIpAddress        *bool
	ConnectionTrackingSpecification *connectionTrackingSpecificationRequest
	DeleteOnTermination             *bool
	Description                     string
	DeviceIndex                     *int64
	EnaQueueCount                   *int64
	EnaSrdSpecification             *enaSrdSpecificationRequest
	SecurityGroupId                 []string
	InterfaceType                   string
	Ipv4PrefixCount                 *int64
	Ipv4Prefix                      []ipv4PrefixSpecificationRequest
	Ipv6AddressCount                *int64
	Ipv6Addresses                   []instanceIpv6AddressRequest
	Ipv6PrefixCount                 *int64
	Ipv6Prefix                      []ipv6PrefixSpecificationRequest
	NetworkCardIndex                *int64
	NetworkInterfaceId              string
	PrimaryIpv6                     *bool
	PrivateIpAddress                string
	PrivateIpAddresses              []privateIpAddressSpecification
	SecondaryPrivateIpAddressCount  *int64
	SubnetId                        string
}

type launchTemplateInstanceSecondaryInterfaceSpecificationRequest struct {
	DeleteOnTermination   *bool
	DeviceIndex           *int64
	InterfaceType         string
	NetworkCardIndex      *int64
	PrivateIpAddressCount *int64
	PrivateIpAddress      []secondaryInterfacePrivateIpAddressSpecificationRequest
	SecondarySubnetId     string
}

type launchTemplateLicenseConfigurationRequest struct {
	LicenseConfigurationArn string
}

type launchTemplateNetworkPerformanceOptionsRequest struct {
	BandwidthWeighting string
}

type launchTemplatePlacementRequest struct {
	Affinity             string
	AvailabilityZone     string
	AvailabilityZoneId   string
	GroupId              string
	GroupName            string
	HostId               string
	HostResourceGroupArn string
	PartitionNumber      *int64
	SpreadDomain         string
	Tenancy              string
}

type launchTemplatePrivateDnsNameOptionsRequest struct {
	EnableResourceNameDnsAAAARecord *bool
	EnableResourceNameDnsARecord    *bool
	HostnameType                    string
}

type launchTemplateSpecification struct {
	LaunchTemplateId   string
	LaunchTemplateName string
	Version            string
}

type launchTemplateSpotMarketOptionsRequest struct {
	BlockDurationMinutes         *int64
	InstanceInterruptionBehavior string
	MaxPrice                     string
	SpotInstanceType             string
	ValidUntil                   string
}

type launchTemplateTagSpecificationRequest struct {
	ResourceType string
	Tag          []tag
}

type launchTemplatesMonitoringRequest struct {
	Enabled *bool
}

type licenseConfigurationRequest struct {
	LicenseConfigurationArn string
}

type memoryGiBPerVCpuRequest struct {
	Max string
	Min string
}

type memoryMiBRequest struct {
	Max *int64
	Min *int64
}

type modifyEbsDefaultKmsKeyIdRequest struct {
	DryRun   *bool
	KmsKeyId string
}

type modifyImageAttributeRequest struct {
	Attribute             string
	Description           *attributeValue
	DryRun                *bool
	ImageId               string
	ImdsSupport           *attributeValue
	LaunchPermission      *launchPermissionModifications
	OperationType         string
	OrganizationalUnitArn []string
	OrganizationArn       []string
	ProductCode           []string
	UserGroup             []string
	UserId                []string
	Value                 string
}

type modifyInstanceAttributeRequest struct {
	Attribute                         string
	BlockDeviceMapping                []instanceBlockDeviceMappingSpecification
	DisableApiStop                    *attributeBooleanValue
	DisableApiTermination             *attributeBooleanValue
	DryRun                            *bool
	EbsOptimized                      *attributeBooleanValue
	EnaSupport                        *attributeBooleanValue
	EnclaveOptions                    *enclaveOptionsRequest
	GroupId                           []string
	InstanceId                        string
	InstanceInitiatedShutdownBehavior *attributeValue
	InstanceType                      *attributeValue
	Kernel                            *attributeValue
	Ramdisk                           *attributeValue
	SourceDestCheck                   *attributeBooleanValue
	SriovNetSupport                   *attributeValue
	UserData                          *secureBlobAttributeValue
	Value                             string
}

type modifySnapshotAttributeRequest struct {
	Attribute              string
	CreateVolumePermission *createVolumePermissionModifications
	DryRun                 *bool
	UserGroup              []string
	OperationType          string
	SnapshotId             string
	UserId                 []string
}

type modifySubnetAttributeRequest struct {
	AssignIpv6AddressOnCreation             *attributeBooleanValue
	CustomerOwnedIpv4Pool                   string
	DisableLniAtDeviceIndex                 *attributeBooleanValue
	EnableDns64                             *attributeBooleanValue
	EnableLniAtDeviceIndex                  *int64
	EnableResourceNameDnsAAAARecordOnLaunch *attributeBooleanValue
	EnableResourceNameDnsARecordOnLaunch    *attributeBooleanValue
	MapCustomerOwnedIpOnLaunch              *attributeBooleanValue
	MapPublicIpOnLaunch                     *attributeBooleanValue
	PrivateDnsHostnameTypeOnLaunch          string
	SubnetId                                string
}

type modifyVolumeRequest struct {
	DryRun             *bool
	Iops               *int64
	MultiAttachEnabled *bool
	Size               *int64
	Throughput         *int64
	VolumeId           string
	VolumeType         string
}

type networkBandwidthGbpsRequest struct {
	Max string
	Min string
}

type networkInterfaceCountRequest struct {
	Max *int64
	Min *int64
}

type onDemandOptionsRequest struct {
	AllocationStrategy         string
	CapacityReservationOptions *capacityReservationOptionsRequest
	MaxTotalPrice              string
	MinTargetCapacity          *int64
	SingleAvailabilityZone     *bool
	SingleInstanceType         *bool
}

type operatorRequest struct {
	Principal string
}

type performanceFactorReferenceRequest struct {
	InstanceFamily string
}

type placement struct {
	Affinity             string
	AvailabilityZone     string
	AvailabilityZoneId   string
	GroupId              string
	GroupName            string
	HostId               string
	HostResourceGroupArn string
	PartitionNumber      *int64
	SpreadDomain         string
	Tenancy              string
}

type prefixListId struct {
	Description  string
	PrefixListId string
}

type privateDnsNameOptionsRequest struct {
	EnableResourceNameDnsAAAARecord *bool
	EnableResourceNameDnsARecord    *bool
	HostnameType                    string
}

type privateIpAddressSpecification struct {
	Primary          *bool
	PrivateIpAddress string
}

type rebootInstancesRequest struct {
	DryRun     *bool
	InstanceId []string
}

type registerImageRequest struct {
	Architecture       string
	BillingProduct     []string
	BlockDeviceMapping []blockDeviceMapping
	BootMode           string
	Description        string
	DryRun             *bool
	EnaSupport         *bool
	ImageLocation      string
	ImdsSupport        string
	KernelId           string
	Name               string
	RamdiskId          string
	RootDeviceName     string
	SriovNetSupport    string
	TagSpecification   []tagSpecification
	TpmSupport         string
	UefiData           string
	VirtualizationType string
}

type requestLaunchTemplateData struct {
	BlockDeviceMapping                []launchTemplateBlockDeviceMappingRequest
	CapacityReservationSpecification  *launchTemplateCapacityReservationSpecificationRequest
	CpuOptions                        *launchTemplateCpuOptionsRequest
	CreditSpecification               *creditSpecificationRequest
	DisableApiStop                    *bool
	DisableApiTermination             *bool
	EbsOptimized                      *bool
	ElasticGpuSpecification           []elasticGpuSpecification
	ElasticInferenceAccelerator       []launchTemplateElasticInferenceAccelerator
	EnclaveOptions                    *launchTemplateEnclaveOptionsRequest
	HibernationOptions                *launchTemplateHibernationOptionsRequest
	IamInstanceProfile                *launchTemplateIamInstanceProfileSpecificationRequest
	ImageId                           string
	InstanceInitiatedShutdownBehavior string
	InstanceMarketOptions             *launchTemplateInstanceMarketOptionsRequest
	InstanceRequirements              *instanceRequirementsRequest
	InstanceType                      string
	KernelId                          string
	KeyName                           string
	LicenseSpecification              []launchTemplateLicenseConfigurationRequest
	MaintenanceOptions                *launchTemplateInstanceMaintenanceOptionsRequest
	MetadataOptions                   *launchTemplateInstanceMetadataOptionsRequest
	Monitoring                        *launchTemplatesMonitoringRequest
	NetworkInterface                  []launchTemplateInstanceNetworkInterfaceSpecificationRequest
	NetworkPerformanceOptions         *launchTemplateNetworkPerformanceOptionsRequest
	Operator                          *operatorRequest
	Placement                         *launchTemplatePlacementRequest
	PrivateDnsNameOptions             *launchTemplatePrivateDnsNameOptionsRequest
	RamDiskId                         string
	SecondaryInterface                []launchTemplateInstanceSecondaryInterfaceSpecificationRequest
	SecurityGroupId                   []string
	SecurityGroup                     []string
	TagSpecification                  []launchTemplateTagSpecificationRequest
	UserData                          string
}

type reservedCapacityFallbackOptionsRequest struct {
	MarketType []string
}

type reservedCapacityOptionsRequest struct {
	AllocationStrategy              string
	CapacityReservationTarget       *fleetCapacityReservationTargetRequest
	ReservationType                 []string
	ReservedCapacityFallbackOptions *reservedCapacityFallbackOptionsRequest
}

type resetImageAttributeRequest struct {
	Attribute string
	DryRun    *bool
	ImageId   string
}

type revokeSecurityGroupEgressRequest struct {
	CidrIp                     string
	DryRun                     *bool
	FromPort                   *int64
	GroupId                    string
	IpPermissions              []ipPermission
	IpProtocol                 string
	SecurityGroupRuleId        []string
	SourceSecurityGroupName    string
	SourceSecurityGroupOwnerId string
	ToPort                     *int64
}

type revokeSecurityGroupIngressRequest struct {
	CidrIp                     string
	DryRun                     *bool
	FromPort                   *int64
	GroupId                    string
	GroupName                  string
	IpPermissions              []ipPermission
	IpProtocol                 string
	SecurityGroupRuleId        []string
	SourceSecurityGroupName    string
	SourceSecurityGroupOwnerId string
	ToPort                     *int64
}

type runInstancesMonitoringEnabled struct {
	Enabled *bool
}

type runInstancesRequest struct {
	AdditionalInfo                    string
	BlockDeviceMapping                []blockDeviceMapping
	CapacityReservationSpecification  *capacityReservationSpecification
	ClientToken                       string
	CpuOptions                        *cpuOptionsRequest
	CreditSpecification               *creditSpecificationRequest
	DisableApiStop                    *bool
	DisableApiTermination             *bool
	DryRun                            *bool
	EbsOptimized                      *bool
	ElasticGpuSpecification           []elasticGpuSpecification
	ElasticInferenceAccelerator       []elasticInferenceAccelerator
	EnablePrimaryIpv6                 *bool
	EnclaveOptions                    *enclaveOptionsRequest
	HibernationOptions                *hibernationOptionsRequest
	IamInstanceProfile                *iamInstanceProfileSpecification
	ImageId                           string
	InstanceInitiatedShutdownBehavior string
	InstanceMarketOptions             *instanceMarketOptionsRequest
	InstanceType                      string
	Ipv6AddressCount                  *int64
	Ipv6Address                       []instanceIpv6Address
	KernelId                          string
	KeyName                           string
	LaunchTemplate                    *launchTemplateSpecification
	LicenseSpecification              []licenseConfigurationRequest
	MaintenanceOptions                *instanceMaintenanceOptionsRequest
	MaxCount                          *int64
	MetadataOptions                   *instanceMetadataOptionsRequest
	MinCount                          *int64
	Monitoring                        *runInstancesMonitoringEnabled
	NetworkInterface                  []instanceNetworkInterfaceSpecification
	NetworkPerformanceOptions         *instanceNetworkPerformanceOptionsRequest
	Operator                          *operatorRequest
	Placement                         *placement
	PrivateDnsNameOptions             *privateDnsNameOptionsRequest
	PrivateIpAddress                  string
	RamdiskId                         string
	SecondaryInterface                []instanceSecondaryInterfaceSpecificationRequest
	SecurityGroupId                   []string
	SecurityGroup                     []string
	SubnetId                          string
	TagSpecification                  []tagSpecification
	UserData                          string
}

type secondaryInterfacePrivateIpAddressSpecificationRequest struct {
	PrivateIpAddress string
}

type secureBlobAttributeValue struct {
	Value string
}

type spotMarketOptions struct {
	BlockDurationMinutes         *int64
	InstanceInterruptionBehavior string
	MaxPrice                     string
	SpotInstanceType             string
	ValidUntil                   string
}

type spotOptionsRequest struct {
	AllocationStrategy           string
	InstanceInterruptionBehavior string
	InstancePoolsToUseCount      *int64
	MaintenanceStrategies        *fleetSpotMaintenanceStrategiesRequest
	MaxTotalPrice                string
	MinTargetCapacity            *int64
	SingleAvailabilityZone       *bool
	SingleInstanceType           *bool
}

type startInstancesRequest struct {
	AdditionalInfo string
	DryRun         *bool
	InstanceId     []string
}

type stopInstancesRequest struct {
	DryRun         *bool
	Force          *bool
	Hibernate      *bool
	InstanceId     []string
	SkipOsShutdown *bool
}

type tag struct {
	Key   string
	Value string
}

type tagSpecification struct {
	ResourceType string
	Tag          []tag
}

type targetCapacitySpecificationRequest struct {
	DefaultTargetCapacityType string
	OnDemandTargetCapacity    *int64
	SpotTargetCapacity        *int64
	TargetCapacityUnitType    string
	TotalTargetCapacity       *int64
}

type terminateInstancesRequest struct {
	DryRun         *bool
	Force          *bool
	InstanceId     []string
	SkipOsShutdown *bool
}

type totalLocalStorageGBRequest struct {
	Max string
	Min string
}

type userBucket struct {
	S3Bucket string
	S3Key    string
}

type userIdGroupPair struct {
	Description            string
	GroupId                string
	GroupName              string
	PeeringStatus          string
	UserId                 string
	VpcId                  string
	VpcPeeringConnectionId string
}

type vCpuCountRangeRequest struct {
	Max *int64
	Min *int64
}

type vpcEncryptionControlConfiguration struct {
	EgressOnlyInternetGatewayExclusion string
	ElasticFileSystemExclusion         string
	InternetGatewayExclusion           string
	LambdaExclusion                    string
	Mode                               string
	NatGatewayExclusion                string
	VirtualPrivateGatewayExclusion     string
	VpcLatticeExclusion                string
	VpcPeeringExclusion                string
}
type getPasswordDataRequest struct {
	DryRun     *bool
	InstanceId string
}

type modifyInstanceMetadataOptionsRequest struct {
	DryRun                  *bool
	HttpEndpoint            string
	HttpProtocolIpv6        string
	HttpPutResponseHopLimit *int64
	HttpTokens              string
	InstanceId              string
	InstanceMetadataTags    string
}
