//go:build linux

package ec2

import (
	"slices"
	"strconv"
	"strings"
)

// instanceType is what EC2 says of a type of instances.
type instanceType struct {
	name      string
	cpus, mib int64
	arch      string
	nitro     bool
	zones     string // letters of the zones that have it
	price     float64
}

// instanceTypes are those of the emulated cloud. The newer families are not in
// every zone, as in the real one.
var instanceTypes = []instanceType{
	{"t2.micro", 1, 1024, "x86_64", false, "abc", .0116}, {"t2.small", 1, 2048, "x86_64", false, "abc", .023}, {"t2.medium", 2, 4096, "x86_64", false, "abc", .0464},
	{"t3.nano", 2, 512, "x86_64", true, "abc", .0052}, {"t3.micro", 2, 1024, "x86_64", true, "abc", .0104}, {"t3.small", 2, 2048, "x86_64", true, "abc", .0208},
	{"t3.medium", 2, 4096, "x86_64", true, "abc", .0416}, {"t3.large", 2, 8192, "x86_64", true, "abc", .0832}, {"t3a.small", 2, 2048, "x86_64", true, "ab", .0188}, {"t3a.medium", 2, 4096, "x86_64", true, "ab", .0376},
	{"t4g.nano", 2, 512, "arm64", true, "abc", .0042}, {"t4g.micro", 2, 1024, "arm64", true, "abc", .0084}, {"t4g.small", 2, 2048, "arm64", true, "abc", .0168}, {"t4g.medium", 2, 4096, "arm64", true, "abc", .0336},
	{"m4.large", 2, 8192, "x86_64", false, "abc", .1}, {"m5.large", 2, 8192, "x86_64", true, "abc", .096}, {"m5.xlarge", 4, 16384, "x86_64", true, "abc", .192}, {"m5a.large", 2, 8192, "x86_64", true, "abc", .086},
	{"m6i.large", 2, 8192, "x86_64", true, "ab", .096}, {"m6g.large", 2, 8192, "arm64", true, "ab", .077}, {"m7i.large", 2, 8192, "x86_64", true, "b", .1008}, {"m7g.large", 2, 8192, "arm64", true, "b", .0816},
	{"c5.large", 2, 4096, "x86_64", true, "abc", .085}, {"c5.xlarge", 4, 8192, "x86_64", true, "abc", .17}, {"c6i.large", 2, 4096, "x86_64", true, "ab", .085}, {"c6g.large", 2, 4096, "arm64", true, "ab", .068}, {"c7g.large", 2, 4096, "arm64", true, "b", .0725},
	{"t2.large", 2, 8192, "x86_64", false, "abc", .0928}, {"t3.xlarge", 4, 16384, "x86_64", true, "abc", .1664}, {"t3a.micro", 2, 1024, "x86_64", true, "ab", .0094}, {"t4g.large", 2, 8192, "arm64", true, "abc", .0672},
	{"m5.2xlarge", 8, 32768, "x86_64", true, "abc", .384}, {"m6i.xlarge", 4, 16384, "x86_64", true, "ab", .192}, {"m6a.large", 2, 8192, "x86_64", true, "ab", .0864}, {"m6g.medium", 1, 4096, "arm64", true, "ab", .0385},
	{"m7i.xlarge", 4, 16384, "x86_64", true, "b", .2016}, {"c4.large", 2, 3840, "x86_64", false, "abc", .1}, {"c5a.large", 2, 4096, "x86_64", true, "abc", .077}, {"c6g.medium", 1, 2048, "arm64", true, "ab", .034},
	{"c7i.large", 2, 4096, "x86_64", true, "b", .0893}, {"r6i.large", 2, 16384, "x86_64", true, "ab", .126},
	{"r5.large", 2, 16384, "x86_64", true, "abc", .126},
}

func typeNamed(name string) (instanceType, bool) {
	i := slices.IndexFunc(instanceTypes, func(t instanceType) bool { return t.name == name })
	if i < 0 {
		return instanceType{}, false
	}
	return instanceTypes[i], true
}

// burst says whether the type earns CPU credits.
func (t instanceType) burst() bool { return strings.HasPrefix(t.name, "t") }

// threads are the vCPUs that a core of its processor is.
func (t instanceType) threads() int64 {
	if t.arch == "arm64" || strings.HasPrefix(t.name, "t2.") {
		return 1
	}
	return 2
}

func (t instanceType) in(zone string) bool { return strings.Contains(t.zones, zone[len(zone)-1:]) }

// spotPrice is what a spot instance costs in a zone.
func (t instanceType) spotPrice(zone string) float64 {
	return t.price * (.3 + .05*float64(zone[len(zone)-1]-'a'))
}

func (t instanceType) matches(filters []filter, more map[string]string) (bool, error) {
	for _, f := range filters {
		have := map[string]string{"instance-type": t.name, "processor-info.supported-architecture": t.arch, "current-generation": strconv.FormatBool(t.nitro),
			"hypervisor": t.hypervisor(), "vcpu-info.default-vcpus": strconv.FormatInt(t.cpus, 10), "burstable-performance-supported": strconv.FormatBool(t.burst()),
			"memory-info.size-in-mib": strconv.FormatInt(t.mib, 10), "bare-metal": "false", "supported-usage-class": "on-demand", "network-info.ena-support": t.ena()}
		h, ok := have[f.Name]
		if m, is := more[f.Name]; is {
			h, ok = m, true
		}
		if !ok {
			return false, fail("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
		}
		hit := slices.ContainsFunc(f.Value, func(w string) bool {
			return wildcard(w, h) || f.Name == "supported-usage-class" && w == "spot"
		})
		if !hit {
			return false, nil
		}
	}
	return true, nil
}

func (t instanceType) hypervisor() string {
	if t.nitro {
		return "nitro"
	}
	return "xen"
}

func (t instanceType) ena() string {
	if t.nitro {
		return "required"
	}
	return "unsupported"
}

type instanceTypeItem struct {
	Name          string   `xml:"instanceType"`
	Current       bool     `xml:"currentGeneration"`
	FreeTier      bool     `xml:"freeTierEligible"`
	UsageClasses  []string `xml:"supportedUsageClasses>item"`
	RootTypes     []string `xml:"supportedRootDeviceTypes>item"`
	Virtual       []string `xml:"supportedVirtualizationTypes>item"`
	BareMetal     bool     `xml:"bareMetal"`
	Hypervisor    string   `xml:"hypervisor"`
	Architectures []string `xml:"processorInfo>supportedArchitectures>item"`
	CPUs          int64    `xml:"vCpuInfo>defaultVCpus"`
	MiB           int64    `xml:"memoryInfo>sizeInMiB"`
	EBSOptimized  string   `xml:"ebsInfo>ebsOptimizedSupport"`
	EBSEncryption string   `xml:"ebsInfo>encryptionSupport"`
	NVMe          string   `xml:"ebsInfo>nvmeSupport"`
	ENA           string   `xml:"networkInfo>enaSupport"`
	IPv6          bool     `xml:"networkInfo>ipv6Supported"`
	Burstable     bool     `xml:"burstablePerformanceSupported"`
	BootModes     []string `xml:"supportedBootModes>item"`
	NitroEnclaves string   `xml:"nitroEnclavesSupport"`
	NitroTPM      string   `xml:"nitroTpmSupport"`
}

type describeInstanceTypesResponse struct {
	Types     []instanceTypeItem `xml:"instanceTypeSet>item"`
	NextToken string             `xml:"nextToken,omitempty"`
}

func (k *call) describeInstanceTypes(in *describeInstanceTypesRequest) (*describeInstanceTypesResponse, error) {
	var absent []string
	for _, n := range in.InstanceType {
		if _, ok := typeNamed(n); !ok {
			absent = append(absent, n)
		}
	}
	if len(absent) > 0 {
		return nil, fail("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", strings.Join(absent, ", "))
	}
	var list []instanceTypeItem
	for _, t := range instanceTypes {
		if len(in.InstanceType) > 0 && !slices.Contains(in.InstanceType, t.name) {
			continue
		}
		ok, err := t.matches(in.Filter, nil)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		i := instanceTypeItem{Name: t.name, Current: t.nitro, UsageClasses: str("on-demand", "spot"), RootTypes: str("ebs"), Virtual: str("hvm"), Hypervisor: t.hypervisor(),
			Architectures: str(t.arch), CPUs: t.cpus, MiB: t.mib, EBSOptimized: "default", EBSEncryption: "supported", NVMe: t.ena(), ENA: t.ena(), IPv6: true, Burstable: t.burst(),
			BootModes: str("legacy-bios", "uefi"), NitroEnclaves: "unsupported", NitroTPM: "unsupported"}
		if t.nitro {
			i.NitroTPM = "supported"
			if t.cpus >= 4 {
				i.NitroEnclaves = "supported"
			}
		}
		list = append(list, i)
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, 100)
	return &describeInstanceTypesResponse{list, next}, err
}

type offeringItem struct {
	Type         string `xml:"instanceType"`
	LocationType string `xml:"locationType"`
	Location     string `xml:"location"`
}

type describeInstanceTypeOfferingsResponse struct {
	Offerings []offeringItem `xml:"instanceTypeOfferingSet>item"`
	NextToken string         `xml:"nextToken,omitempty"`
}

func (k *call) describeInstanceTypeOfferings(in *describeInstanceTypeOfferingsRequest) (*describeInstanceTypeOfferingsResponse, error) {
	var list []offeringItem
	add := func(t instanceType, where string) error {
		ok, err := t.matches(in.Filter, map[string]string{"location": where})
		if ok {
			list = append(list, offeringItem{t.name, in.LocationType, where})
		}
		return err
	}
	for _, t := range instanceTypes {
		var err error
		switch in.LocationType {
		case "", "region":
			err = add(t, k.regionName)
		case "availability-zone", "availability-zone-id":
			for _, z := range t.zones {
				zone := k.regionName + string(z)
				if in.LocationType == "availability-zone-id" {
					zone = zoneID(zone)
				}
				if err == nil {
					err = add(t, zone)
				}
			}
		default:
			err = invalid("LocationType", "%q is not known", in.LocationType)
		}
		if err != nil {
			return nil, err
		}
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 5, 1000)
	return &describeInstanceTypeOfferingsResponse{list, next}, err
}

type spotPriceItem struct {
	Type    string `xml:"instanceType"`
	Product string `xml:"productDescription"`
	Price   string `xml:"spotPrice"`
	Time    string `xml:"timestamp"`
	Zone    string `xml:"availabilityZone"`
}

type describeSpotPriceHistoryResponse struct {
	Prices    []spotPriceItem `xml:"spotPriceHistorySet>item"`
	NextToken string          `xml:"nextToken"`
}

func (k *call) describeSpotPriceHistory(in *describeSpotPriceHistoryRequest) (*describeSpotPriceHistoryResponse, error) {
	var list []spotPriceItem
	for _, t := range instanceTypes {
		if len(in.InstanceType) > 0 && !slices.Contains(in.InstanceType, t.name) {
			continue
		}
		for _, z := range t.zones {
			zone := k.regionName + string(z)
			ok, err := t.matches(in.Filter, map[string]string{"availability-zone": zone, "product-description": "Linux/UNIX"})
			if err != nil {
				return nil, err
			}
			if ok && (in.AvailabilityZone == "" || in.AvailabilityZone == zone) {
				list = append(list, spotPriceItem{t.name, "Linux/UNIX", strconv.FormatFloat(t.spotPrice(zone), 'f', 6, 64), iso(k.now()), zone})
			}
		}
	}
	list, next, err := page(list, in.MaxResults, in.NextToken, 1, 1000)
	return &describeSpotPriceHistoryResponse{list, next}, err
}
