package specs

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
)

// windowsKinds is how each kind of fact that Windows has is asked for there.
// The scripts keep to what PowerShell 5.1 has with .NET 4.5, to numbers and
// names that no language of Windows translates, and to .NET, CIM and COM where
// a cmdlet is not on every edition.
var windowsKinds = sync.OnceValue(func() map[string]windowsKind {
	const perFile = `Out-Each $s { param($n)
$p = Get-Full $n
try { $q = Get-Final $p } catch { if (Test-Gone (Get-Inner $_.Exception)) { return @{ missing = 'no such file' } }; throw }
`
	kinds := map[string]windowsKind{
		"platform": {script: `$v = 'HKEY_LOCAL_MACHINE\SOFTWARE\Microsoft\Windows NT\CurrentVersion'
$o = Get-CimInstance -ClassName Win32_OperatingSystem
$c = [string][Microsoft.Win32.Registry]::GetValue($v, 'DisplayVersion', '')
if ($c -eq '') { $c = [string][Microsoft.Win32.Registry]::GetValue($v, 'ReleaseId', '') }
$a = [string]$env:PROCESSOR_ARCHITEW6432
if ($a -eq '') { $a = [string]$env:PROCESSOR_ARCHITECTURE }
Out-Each $s { param($n) @{ release = [string]$o.Version; codename = $c; arch = $a } }
`, read: named(windowsPlatform)},

		// The uninstall keys of both views, and of the user that logs in.
		"package": {script: `foreach ($h in 'LocalMachine', 'CurrentUser') {
foreach ($v in 'Registry64', 'Registry32') {
$k = [Microsoft.Win32.RegistryKey]::OpenBaseKey($h, $v).OpenSubKey('SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall')
if (-not $k) { continue }
foreach ($id in $k.GetSubKeyNames()) {
$i = $k.OpenSubKey($id)
if ($i) { @{ id = $id; name = [string]$i.GetValue('DisplayName'); version = [string]$i.GetValue('DisplayVersion') } }
}
}
}
@{ whole = $true }
`, read: windowsPackages("windows")},
		"chocolatey": {script: `$d = [string]$env:ChocolateyInstall
if ($d -eq '') { $d = [string][Environment]::GetEnvironmentVariable('ChocolateyInstall', 'Machine') }
if ($d -eq '') { $d = [IO.Path]::Combine($env:ProgramData, 'chocolatey') }
$d = [IO.Path]::Combine($d, 'lib')
if (-not [IO.Directory]::Exists($d)) { @{ unsupported = 'there is no Chocolatey' }; return }
foreach ($e in [IO.Directory]::GetDirectories($d)) {
foreach ($f in [IO.Directory]::GetFiles($e, '*.nuspec')) {
$x = New-Object Xml.XmlDocument; $x.XmlResolver = $null; $x.Load($f)
$m = $x.DocumentElement['metadata']
@{ id = $m['id'].InnerText; name = $m['id'].InnerText; version = $m['version'].InnerText }
}
}
@{ whole = $true }
`, read: windowsPackages("chocolatey")},
		"psmodule": {script: `Out-Each $s { param($n)
@{ versions = [string[]]@(Get-Module -ListAvailable -Name $n | ForEach-Object { $_.Version.ToString() }) } }
`, read: named(func(r record) (any, error) {
			return pkg{manager: "psmodule", versions: r.list("versions")}, r.need("versions")
		})},
		"gem": tool(gems, `'gem'`, "list --local --no-details"),
		"npm": tool(npms, `'npm'`, "ls -g --depth=0 --json"),
		"pip": tool(pips, `'pip3', 'pip'`, "list --format=json --disable-pip-version-check"),

		"service": {script: `Out-Each $s { param($n)
$x = Get-ServiceRow $n
if (-not $x) { return @{ missing = 'no such service' } }
$p = @{}
foreach ($y in $x.CimInstanceProperties) { if ($null -ne $y.Value) { $p[$y.Name] = $y.Value } }
$p['DelayedAutoStart'] = [Microsoft.Win32.Registry]::GetValue("HKEY_LOCAL_MACHINE\SYSTEM\CurrentControlSet\Services\$($x.Name)", 'DelayedAutostart', 0) -eq 1
@{ props = $p } }
`, read: named(windowsService)},

		"port": {script: `$i = [Net.NetworkInformation.IPGlobalProperties]::GetIPGlobalProperties()
foreach ($e in $i.GetActiveTcpListeners()) { @{ proto = 'tcp'; addr = $e.Address.ToString(); port = $e.Port } }
foreach ($e in $i.GetActiveUdpListeners()) { @{ proto = 'udp'; addr = $e.Address.ToString(); port = $e.Port } }
@{ whole = $true }
`, read: windowsSockets},

		"process": {script: `foreach ($p in Get-CimInstance -ClassName Win32_Process) {
$r = @{ pid = $p.ProcessId; ppid = $p.ParentProcessId; name = $p.Name }
if ($s -contains $p.Name -or $s -contains ($p.Name -replace '\.exe$', '')) {
$r.args = $p.CommandLine; $r.threads = $p.ThreadCount
$r.rss = [long]([long]$p.WorkingSetSize / 1024); $r.vsz = [long]([long]$p.VirtualSize / 1024)
try { $o = Invoke-CimMethod -InputObject $p -MethodName GetOwner; if ($o.ReturnValue -eq 0) { $r.user = $o.Domain + '\' + $o.User } } catch { }
}
$r
}
@{ whole = $true; self = $PID }
`, read: windowsProcesses},

		"file": {script: `Out-Each $s { param($n)
$p = Get-Full $n; $r = @{ link = $false }
try {
$r.link = (Get-Link $p) -ne ''
$q = Get-Final $p
$r.dir = ([int][IO.File]::GetAttributes($q) -band 16) -ne 0
} catch {
if (-not (Test-Gone (Get-Inner $_.Exception))) { throw }
$r.gone = $true
return $r
}
$r.size = 0
if (-not $r.dir) { $r.size = (New-Object IO.FileInfo $q).Length }
try {
$l = Get-Acl -LiteralPath $q; $t = [Security.Principal.SecurityIdentifier]
$o = $l.GetOwner($t); $g = $l.GetGroup($t)
$r.uid = $o.Value; $r.owner = Get-AccountName $o; $r.gid = $g.Value; $r.group = Get-AccountName $g
} catch { $r.noowner = (Get-Inner $_.Exception).Message }
$r }
`, read: named(windowsFile)},
		"mtime": {script: perFile + `@{ mtime = [long][Math]::Floor(([IO.File]::GetLastWriteTimeUtc($q) - (New-Object DateTime 1970, 1, 1, 0, 0, 0, ([DateTimeKind]::Utc))).TotalSeconds) } }
`, read: named(func(r record) (any, error) { return r.text("mtime"), r.need("mtime") })},
		"link target": {script: `Out-Each $s { param($n)
try { $t = Get-Link (Get-Full $n) } catch { if (Test-Gone (Get-Inner $_.Exception)) { return @{ missing = 'no such file' } }; throw }
if ($t -eq '') { return @{ missing = 'not a symbolic link' } }
@{ target = $t } }
`, read: named(func(r record) (any, error) { return r.text("target"), r.need("target") })},
		"file version": {script: perFile + `$v = [Diagnostics.FileVersionInfo]::GetVersionInfo($q)
if (-not $v.FileVersion -and -not $v.ProductVersion) { return @{ missing = 'it has no version' } }
@{ file = [string]$v.FileVersion; product = [string]$v.ProductVersion; number = '{0}.{1}.{2}.{3}' -f $v.FileMajorPart, $v.FileMinorPart, $v.FileBuildPart, $v.FilePrivatePart } }
`, read: named(func(r record) (any, error) {
			return fileVersion{r.text("number"), r.text("file"), r.text("product")}, r.need("number")
		})},

		"sha256sum": {script: perFile + windowsHash("SHA256"), read: named(func(r record) (any, error) { return strings.ToLower(r.text("sum")), r.need("sum") })},
		"md5sum":    {script: perFile + windowsHash("MD5"), read: named(func(r record) (any, error) { return strings.ToLower(r.text("sum")), r.need("sum") })},

		// A certificate's path may lead into a store: Cert:\LocalMachine\My\THUMBPRINT.
		"content": {script: `Out-Each $s { param($n)
if ($n -like 'cert:*') {
$f = @($n.Substring(5).Split([char[]]'\/', [StringSplitOptions]::RemoveEmptyEntries))
if ($f.Count -ne 3) { throw 'a certificate in a store has a path such as Cert:\LocalMachine\My\THUMBPRINT' }
$x = New-Object Security.Cryptography.X509Certificates.X509Store -ArgumentList $f[1], ([Security.Cryptography.X509Certificates.StoreLocation]$f[0])
$x.Open('OpenExistingOnly')
try { $c = @($x.Certificates.Find('FindByThumbprint', $f[2], $false)) } finally { $x.Close() }
if ($c.Count -eq 0) { return @{ missing = 'no such certificate in the store' } }
return @{ data = [Convert]::ToBase64String($c[0].RawData); raw = $true }
}
try { @{ data = Get-Bytes (Get-Full $n) ` + strconv.Itoa(maxContent+1) + ` } } catch { if (Test-Gone (Get-Inner $_.Exception)) { return @{ missing = 'no such file' } }; throw }
}
`, read: named(windowsContent)},
		"hosts": {script: `Out-Each $s { param($n)
$p = [IO.Path]::Combine($env:SystemRoot, 'System32\drivers\etc\hosts')
try { @{ data = Get-Bytes $p ` + strconv.Itoa(maxContent+1) + ` } } catch { if (Test-Gone (Get-Inner $_.Exception)) { return @{ data = '' } }; throw } }
`, read: windowsHosts},

		"access":    {script: windowsAccess, read: named(accessRules)},
		"access -r": {script: windowsAccess, read: named(mayUse(0x1))},
		"access -w": {script: windowsAccess, read: named(mayUse(0x2))},
		"access -x": {script: windowsAccess, read: named(mayUse(0x20))},

		"user": {script: `Out-Each $s { param($n)
$u = Get-Account $n 'user'
if (-not $u) { return @{ missing = 'no such user' } }
$sid = Get-AccountSid $u
@{ sid = $sid; home = Get-ProfilePath $sid; groups = [string[]]@(Get-Related $u 'Groups') } }
`, read: named(func(r record) (any, error) {
			sid := r.text("sid")
			return user{uid: sid, home: r.text("home"), groups: r.list("groups"), windows: true}, r.need("sid", "groups")
		})},
		"authorized keys": {script: `Out-Each $s { param($n)
$u = Get-Account $n 'user'
if (-not $u) { return @{ missing = 'no such user' } }
$f = @(); $sid = Get-AccountSid $u; $d = Get-ProfilePath $sid
if ($d -ne '') { $f += [IO.Path]::Combine($d, '.ssh\authorized_keys') }
$admins = (New-Object Security.Principal.SecurityIdentifier 'S-1-5-32-544').Translate([Security.Principal.NTAccount]).Value.Split('\')[-1]
if (@(Get-Related $u 'Groups') -contains $admins) { $f = @([IO.Path]::Combine($env:ProgramData, 'ssh\administrators_authorized_keys')) }
$t = ''
foreach ($p in $f) {
try { $t += [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String((Get-Bytes $p ` + strconv.Itoa(maxContent) + `))) + [char]10 } catch { if (-not (Test-Gone (Get-Inner $_.Exception))) { throw } }
}
@{ keys = $t } }
`, read: named(func(r record) (any, error) { return r.text("keys"), r.need("keys") })},
		"group": {script: `Out-Each $s { param($n)
$g = Get-Account $n 'group'
if (-not $g) { return @{ missing = 'no such group' } }
@{ sid = Get-AccountSid $g; members = [string[]]@(Get-Related $g 'Members') } }
`, read: named(func(r record) (any, error) {
			return group{gid: r.text("sid"), members: r.list("members"), windows: true}, r.need("sid", "members")
		})},

		// The last command decides the status, as in sh: that of a program, or 1.
		"command": {programs: true, script: `Out-Each $s { param($n)
$t = $n + [char]10 + [char]10 + 'if (-not $?) { if ($LASTEXITCODE) { exit $LASTEXITCODE }; exit 1 }; exit 0'
$l = '-NoLogo -NoProfile -NonInteractive -OutputFormat Text -ExecutionPolicy Bypass -EncodedCommand ' + [Convert]::ToBase64String([Text.Encoding]::Unicode.GetBytes($t))
if ($l.Length -gt 32000) { throw 'the command is longer than a command line of Windows' }
Invoke-Program ([IO.Path]::Combine($PSHOME, 'powershell.exe')) $l $ms }
`, read: named(func(r record) (any, error) {
			a, err := programAnswer(r)
			return output{string(a.out), string(a.errOut), a.status}, err
		})},

		"interface": {script: `foreach ($i in [Net.NetworkInformation.NetworkInterface]::GetAllNetworkInterfaces()) {
$p = $i.GetIPProperties(); $m = ''
try { $m = $p.GetIPv4Properties().Mtu } catch { try { $m = $p.GetIPv6Properties().Mtu } catch { } }
@{ name = $i.Name; state = [int]$i.OperationalStatus; speed = $i.Speed; mtu = $m; addrs = [string[]]@(foreach ($u in $p.UnicastAddresses) { $u.Address.ToString() + '/' + $u.PrefixLength }) }
}
@{ whole = $true }
`, read: windowsInterfaces},
		"route": {script: `if (-not (Test-Command 'Get-NetRoute')) { @{ unsupported = 'there is no Get-NetRoute' }; return }
foreach ($r in Get-NetRoute) { @{ to = $r.DestinationPrefix; via = $r.NextHop; dev = $r.InterfaceAlias; metric = [long]$r.RouteMetric + [long]$r.InterfaceMetric } }
@{ whole = $true }
`, read: windowsRoutes},

		"host": {script: `Out-Each $s { param($n)
try { $a = [Net.Dns]::GetHostAddresses($n) } catch {
$e = Get-Inner $_.Exception
if ($e -is [Net.Sockets.SocketException] -and 11001, 11004 -contains $e.NativeErrorCode) { return @{ missing = 'the name has no address' } }
throw
}
@{ addrs = [string[]]@($a | ForEach-Object { $_.ToString() }) } }
`, read: named(windowsAddresses)},
		"dns": {script: `if (-not (Test-Command 'Resolve-DnsName')) { @{ unsupported = 'there is no Resolve-DnsName' }; return }
Out-Each $s { param($n)
try { $a = @(Resolve-DnsName -Name $n -Type A_AAAA -DnsOnly -NoHostsFile -QuickTimeout) } catch {
$e = Get-Inner $_.Exception
if ($e -is [ComponentModel.Win32Exception] -and 9003, 9501 -contains $e.NativeErrorCode) { return @{ missing = 'the name servers know no address' } }
throw
}
$i = [string[]]@($a | Where-Object { $_.IPAddress } | ForEach-Object { [string]$_.IPAddress })
if ($i.Count -eq 0) { return @{ missing = 'the name servers know no address' } }
@{ addrs = $i } }
`, read: named(windowsAddresses)},
		"ping": {script: `Out-Each $s { param($n)
$f = $n.Split([char]0)
try { $r = (New-Object Net.NetworkInformation.Ping).Send($f[0], 1000 * [int]$f[1]) } catch {
$e = Get-Inner $_.Exception
if ($e -is [Net.Sockets.SocketException] -and 11001, 11004 -contains $e.NativeErrorCode) { return @{ why = 'the name has no address' } }
throw
}
if ([int]$r.Status -eq 0) { @{ why = '' } } else { @{ why = 'no answer to ping: ' + $r.Status } } }
`, read: named(func(r record) (any, error) { return Clean(r.text("why")), r.need("why") })},
		"connect": {script: `Out-Each $s { param($n)
$f = $n.Split([char]0); $watch = [Diagnostics.Stopwatch]::StartNew(); $why = 'it has no address'
try { $all = [Net.Dns]::GetHostAddresses($f[0]) } catch {
$e = Get-Inner $_.Exception
if ($e -is [Net.Sockets.SocketException] -and 11001, 11004 -contains $e.NativeErrorCode) { return @{ why = 'the name has no address' } }
throw
}
foreach ($a in $all) {
$left = [int](1000 * [int]$f[2] - $watch.ElapsedMilliseconds)
if ($left -le 0) { $why = 'timed out'; break }
$k = New-Object Net.Sockets.Socket $a.AddressFamily, ([Net.Sockets.SocketType]::Stream), ([Net.Sockets.ProtocolType]::Tcp)
try {
$h = $k.BeginConnect($a, [int]$f[1], $null, $null)
if ($h.AsyncWaitHandle.WaitOne($left)) { $k.EndConnect($h); return @{ why = '' } }
$why = 'timed out'
} catch {
$e = Get-Inner $_.Exception
if ($e -isnot [Net.Sockets.SocketException]) { throw }
$why = $e.SocketErrorCode.ToString() + ': ' + $e.Message
} finally { $k.Close() }
}
@{ why = $why } }
`, read: named(func(r record) (any, error) { return Clean(r.text("why")), r.need("why") })},

		"windows feature": {script: `$c = @{}
Out-Each $s { param($x)
$by, $n = $x.Split([char]0)
if ($by -ne 'dism') {
if (Test-Command 'Get-WindowsFeature') {
if (-not $c.server) { $c.server = @(Get-WindowsFeature | ForEach-Object { @{ name = $_.Name; state = $_.InstallState.ToString() } }) }
foreach ($f in $c.server) { if ($f.name -eq $n) { return @{ state = $f.state } } }
} elseif ($by -eq 'powershell') { return @{ unsupported = 'there is no Get-WindowsFeature, which only Windows Server has' } }
}
if ($by -ne 'powershell') {
if (Test-Command 'Get-WindowsOptionalFeature') {
if (-not $c.dism) { $c.dism = @(Get-WindowsOptionalFeature -Online | ForEach-Object { @{ name = $_.FeatureName; state = $_.State.ToString() } }) }
foreach ($f in $c.dism) { if ($f.name -eq $n) { return @{ state = $f.state } } }
} elseif ($by -eq 'dism' -or -not $c.server) { return @{ unsupported = 'there is no Get-WindowsOptionalFeature' } }
}
@{ missing = 'no such feature' } }
`, read: named(func(r record) (any, error) { return r.text("state"), r.need("state") })},
		"windows hot fix": {script: `foreach ($f in Get-CimInstance -ClassName Win32_QuickFixEngineering) { @{ id = [string]$f.HotFixID; description = [string]$f.Description } }
@{ whole = $true }
`, read: windowsHotFixes},
		"registry key": {script: `Out-Each $s { param($x)
$h, $p = $x.Split([char]0)
$k = [Microsoft.Win32.RegistryKey]::OpenBaseKey($h, 'Registry64').OpenSubKey($p)
if (-not $k) { return @{ missing = 'no such key' } }
@{ values = $k.ValueCount; keys = $k.SubKeyCount } }
`, read: named(func(r record) (any, error) {
			return fmt.Sprintf("it has %s values and %s keys", Clean(r.text("values")), Clean(r.text("keys"))), r.need("values")
		})},
		"registry value": {script: `Out-Each $s { param($x)
$h, $p, $v = $x.Split([char]0)
$k = [Microsoft.Win32.RegistryKey]::OpenBaseKey($h, 'Registry64').OpenSubKey($p)
if (-not $k) { return @{ missing = 'no such key' } }
if (@($k.GetValueNames()) -notcontains $v) { return @{ missing = 'the key has no such property' } }
$t = $k.GetValueKind($v).ToString()
$d = $k.GetValue($v, $null, [Microsoft.Win32.RegistryValueOptions]::DoNotExpandEnvironmentNames)
switch ($t) {
'DWord' { $d = [BitConverter]::ToUInt32([BitConverter]::GetBytes([int]$d), 0) }
'QWord' { $d = [BitConverter]::ToUInt64([BitConverter]::GetBytes([long]$d), 0) }
'MultiString' { return @{ kind = $t; list = [string[]]@($d) } }
'String' { }
'ExpandString' { }
default { $d = [BitConverter]::ToString([byte[]]$d).Replace('-', '') }
}
@{ kind = $t; text = $d } }
`, read: named(windowsRegistryValue)},
		"scheduled task": {script: `$c = New-Object -ComObject Schedule.Service
$c.Connect()
Out-Each $s { param($n)
$p = '\' + $n.Trim('\'); $i = $p.LastIndexOf('\'); $d = $p.Substring(0, $i)
if ($d -eq '') { $d = '\' }
try { $t = $c.GetFolder($d).GetTask($p.Substring($i + 1)) } catch {
if (-2147024894, -2147024893 -contains (Get-Inner $_.Exception).HResult) { return @{ missing = 'no such task' } }
throw
}
@{ enabled = [bool]$t.Enabled; state = [int]$t.State } }
`, read: named(func(r record) (any, error) {
			state := map[string]string{"1": "disabled", "2": "queued", "3": "ready", "4": "running"}[r.text("state")]
			return scheduledTask{r.yes("enabled"), cmp.Or(state, "in an unknown state")}, r.need("enabled", "state")
		})},
		"windows firewall": {script: `$all = (New-Object -ComObject HNetCfg.FwPolicy2).Rules
if (-not ($all.Count -gt 0)) { throw 'Windows gives no firewall rules; does its service MpsSvc run?' }
foreach ($r in $all) {
if ($s -contains $r.Name) { @{ name = [string]$r.Name; enabled = [bool]$r.Enabled; direction = [int]$r.Direction; action = [int]$r.Action; protocol = [int]$r.Protocol; ports = [string]$r.LocalPorts } }
}
@{ whole = $true }
`, read: windowsFirewall},
		"iis website": {script: iisManager + `Out-Each $s { param($n)
$w = $m.Sites[$n]
if (-not $w) { return @{ missing = 'no such website' } }
$r = @{ enabled = [bool]$w.ServerAutoStart; bindings = @(); apps = @(); state = '' }
try { $r.state = $w.State.ToString() } catch { $r.nostate = (Get-Inner $_.Exception).Message }
$r.bindings = @(foreach ($b in $w.Bindings) { @{ protocol = [string]$b.Protocol; info = [string]$b.BindingInformation } })
$r.apps = @(foreach ($a in $w.Applications) {
@{ path = [string]$a.Path; pool = [string]$a.ApplicationPoolName; dirs = @(foreach ($d in $a.VirtualDirectories) { @{ path = [string]$d.Path; at = [Environment]::ExpandEnvironmentVariables([string]$d.PhysicalPath) } }) }
})
$r }
`, read: named(windowsWebsite)},
		"iis app pool": {script: iisManager + `Out-Each $s { param($n)
$p = $m.ApplicationPools[$n]
if (-not $p) { return @{ missing = 'no such application pool' } }
@{ runtime = [string]$p.ManagedRuntimeVersion; bits32 = [bool]$p.Enable32BitAppOnWin64; pipeline = $p.ManagedPipelineMode.ToString(); idle = $p.ProcessModel.IdleTimeout.TotalMinutes; restart = $p.Recycling.PeriodicRestart.Time.TotalMinutes; identity = $p.ProcessModel.IdentityType.ToString(); profile = [bool]$p.ProcessModel.LoadUserProfile; user = [string]$p.ProcessModel.UserName } }
`, read: named(func(r record) (any, error) {
			return appPool(r), r.need("runtime", "bits32", "pipeline", "idle", "restart", "identity", "profile", "user")
		})},
	}
	property := kinds["service"]
	property.script = `Out-Each $s { param($x)
$n, $p = $x.Split([char]0)
$w = Get-ServiceRow $n
if (-not $w) { return @{ missing = 'no such service' } }
$y = $w.CimInstanceProperties[$p]
if (-not $y) { return @{ missing = 'Win32_Service has no such property' } }
if ($null -eq $y.Value) { return @{ missing = 'the property has no value' } }
@{ value = $y.Value } }
`
	property.read = named(func(r record) (any, error) {
		v := r.text("value")
		if b, ok := r["value"].(bool); ok {
			v = strconv.FormatBool(b)
		}
		return unitProperty{load: "loaded", values: []string{"", v}}, r.need("value")
	})
	kinds["unit property"] = property
	return kinds
})

func windowsHash(name string) string {
	return `$h = [Security.Cryptography.` + name + `]::Create()
$o = [IO.File]::Open($q, 'Open', 'Read', 'ReadWrite, Delete')
try { @{ sum = [BitConverter]::ToString($h.ComputeHash($o)).Replace('-', '') } } finally { $o.Close() } }
`
}

const iisManager = `$d = [IO.Path]::Combine($env:SystemRoot, 'System32\inetsrv\Microsoft.Web.Administration.dll')
if (-not [IO.File]::Exists($d)) { @{ unsupported = 'IIS is not installed' }; return }
[void][Reflection.Assembly]::LoadFrom($d)
$m = New-Object Microsoft.Web.Administration.ServerManager
`

// windowsAccess gives a file's access list, and the identities of the user
// whose turn it is; without one those of Everyone.
const windowsAccess = `Out-Each $s { param($x)
$n, $who = $x.Split([char]0)
try { $q = Get-Final (Get-Full $n) } catch { if (Test-Gone (Get-Inner $_.Exception)) { return @{ missing = 'no such file' } }; throw }
$sids = @('S-1-1-0')
if ($who) {
$u = Get-Account $who 'user'
if (-not $u) { throw "there is no local user $who; the groups of others are not known here" }
$sids += (Get-AccountSid $u); $sids += 'S-1-5-11'
foreach ($g in @(Get-Related $u 'Groups')) { $sids += (Get-AccountSid (Get-Account $g 'group')) }
}
$rules = @(foreach ($a in (Get-Acl -LiteralPath $q).GetAccessRules($true, $true, [Security.Principal.SecurityIdentifier])) {
@{ allow = ([int]$a.AccessControlType -eq 0); rights = [int]$a.FileSystemRights; sid = $a.IdentityReference.Value; only = (([int]$a.PropagationFlags -band 2) -ne 0) }
})
@{ sids = [string[]]$sids; rules = $rules } }
`

// tool asks a package manager that lists what it has, as elsewhere.
func tool(k *kind, names, arguments string) windowsKind {
	return windowsKind{programs: true, script: "Invoke-Tool @(" + names + ") '" + arguments + "' $ms\n", read: func(all []record, subjects []string) (facts, error) {
		if err := common(all); err != nil {
			return nil, err
		}
		if len(all) != 1 {
			return nil, errors.New("the machine gave no answer")
		}
		a, err := programAnswer(all[0])
		if err != nil {
			return nil, err
		}
		return k.read(a, subjects)
	}}
}

// programAnswer is what a program printed, with the ends of lines as elsewhere.
func programAnswer(r record) (answer, error) {
	out, err := r.bytes("out")
	errOut, err2 := r.bytes("err")
	status, err3 := strconv.Atoi(r.text("status"))
	if err := errors.Join(err, err2, err3); err != nil {
		return answer{}, err
	}
	return answer{out: []byte(plainLines(out)), errOut: []byte(plainLines(powershellText(errOut))), status: status}, nil
}

// plainLines drops a mark of the byte order, and the carriage returns at the ends of lines.
func plainLines(b []byte) string {
	return strings.ReplaceAll(strings.TrimPrefix(string(b), "\ufeff"), "\r\n", "\n")
}

// decodeText is a file's text: UTF-16 is known by its mark of the byte order.
func decodeText(b []byte) string {
	var order binary.ByteOrder
	switch {
	case len(b) >= 2 && b[0] == 0xff && b[1] == 0xfe:
		order = binary.LittleEndian
	case len(b) >= 2 && b[0] == 0xfe && b[1] == 0xff:
		order = binary.BigEndian
	default:
		return plainLines(b)
	}
	units := make([]uint16, 0, len(b)/2)
	for i := 2; i+1 < len(b); i += 2 {
		units = append(units, order.Uint16(b[i:]))
	}
	return plainLines([]byte(string(utf16.Decode(units))))
}

func windowsPlatform(r record) (any, error) {
	arch := strings.ToLower(r.text("arch"))
	if arch == "x86" {
		arch = "386"
	}
	return platform{
		"id": "windows", "family": "windows", "kernel": "windows", "init": "windows",
		"release": r.text("release"), "codename": r.text("codename"), "arch": arch,
	}, r.need("release", "arch")
}

// windowsPackages finds packages by their name, or by that of their key. Names
// know no case, and may have * and ? in them.
func windowsPackages(manager string) func([]record, []string) (facts, error) {
	return func(all []record, subjects []string) (facts, error) {
		if err := complete(all); err != nil {
			return nil, err
		}
		result := facts{}
		for _, s := range subjects {
			pattern := wildcard(s)
			p, seen := pkg{manager: manager}, map[string]bool{}
			for _, r := range all {
				id, name, version := r.text("id"), r.text("name"), r.text("version")
				if r.yes("whole") || !pattern.MatchString(id) && (name == "" || !pattern.MatchString(name)) {
					continue
				}
				if key := id + "\x00" + name + "\x00" + version; !seen[key] { // both views may show the same key
					seen[key] = true
					p.versions = append(p.versions, version)
				}
			}
			result[s] = p
		}
		return result, nil
	}
}

func wildcard(s string) *regexp.Regexp {
	q := regexp.QuoteMeta(s)
	q = strings.ReplaceAll(strings.ReplaceAll(q, `\*`, `.*`), `\?`, `.`)
	return regexp.MustCompile(`(?is)^` + q + `$`)
}

func windowsService(r record) (any, error) {
	raw, ok := r["props"].(map[string]any)
	if !ok {
		return nil, errors.New("the machine did not say the service's properties")
	}
	u := unit{init: "windows", manager: "windows", props: map[string]string{}}
	for k, v := range raw {
		switch v := v.(type) {
		case string:
			u.props[k] = v
		case bool:
			u.props[k] = strconv.FormatBool(v)
		}
	}
	for _, k := range []string{"State", "StartMode"} {
		if u.props[k] == "" {
			return nil, fmt.Errorf("the machine did not say the service's %s", k)
		}
	}
	return u, nil
}

func windowsSockets(all []record, subjects []string) (facts, error) {
	if err := complete(all); err != nil {
		return nil, err
	}
	result := facts{}
	for _, s := range subjects {
		here := []listener{}
		for _, r := range all {
			if r.text("port") != s {
				continue
			}
			addr, err := netip.ParseAddr(r.text("addr"))
			port, err2 := strconv.ParseUint(s, 10, 16)
			if err != nil || err2 != nil || r.text("proto") != "tcp" && r.text("proto") != "udp" {
				return nil, fmt.Errorf("not a socket's address: %s", Clean(r.text("addr")))
			}
			here = append(here, listener{udp: r.text("proto") == "udp", addr: netip.AddrPortFrom(addr.WithZone("").Unmap(), uint16(port))})
		}
		result[s] = here
	}
	return result, nil
}

// windowsProcesses leaves out what only runs for the spec's sake.
func windowsProcesses(all []record, subjects []string) (facts, error) {
	if err := complete(all); err != nil {
		return nil, err
	}
	byPID, self := map[string]record{}, ""
	for _, r := range all {
		if r.yes("whole") {
			self = r.text("self")
		} else {
			byPID[r.text("pid")] = r
		}
	}
	if byPID[self] == nil {
		return nil, errors.New("the machine does not list the processes")
	}
	ours := map[string]bool{}
	for pid := self; byPID[pid] != nil && !ours[pid]; pid = byPID[pid].text("ppid") {
		name := strings.ToLower(byPID[pid].text("name"))
		if pid != self && !slices.Contains([]string{"powershell.exe", "pwsh.exe", "cmd.exe", "winrshost.exe"}, name) {
			break
		}
		ours[pid] = true
	}
	below := func(pid string) bool {
		for range len(byPID) {
			if ours[pid] {
				return true
			}
			r := byPID[pid]
			if r == nil {
				return false
			}
			pid = r.text("ppid")
		}
		return false
	}
	result := facts{}
	for _, s := range subjects {
		here := []process{}
		for pid, r := range byPID {
			name := r.text("name")
			if !strings.EqualFold(name, s) && !strings.EqualFold(name, s+".exe") || below(pid) {
				continue
			}
			p := process{pid: pid, parent: r.text("ppid"), name: name, user: r.text("user"), threads: r.text("threads"), rss: r.text("rss"), vsz: r.text("vsz"), args: r.text("args")}
			for _, k := range []string{"user", "args"} {
				if !r.has(k) {
					p.hidden = append(p.hidden, k)
				}
			}
			here = append(here, p)
		}
		slices.SortFunc(here, func(a, b process) int { return compareDigits(a.pid, b.pid) })
		result[s] = here
	}
	return result, nil
}

func windowsFile(r record) (any, error) {
	f := file{link: r.yes("link"), windows: true}
	switch {
	case r.yes("gone") && f.link:
		f.why = "a symbolic link to nothing"
		return f, nil
	case r.yes("gone"):
		f.why = "no such file"
		return f, nil
	}
	if err := r.need("dir", "size"); err != nil {
		return nil, err
	}
	s := fileStat{mode: 0o100000, uid: r.text("uid"), gid: r.text("gid"), size: r.text("size"), owner: r.text("owner"), group: r.text("group")}
	if r.yes("dir") {
		s.mode = 0o040000
	}
	if s.uid == "" || s.gid == "" {
		s.noOwner = fmt.Errorf("its owner could not be read: %s", Clean(r.text("noowner")))
	}
	f.target = &s
	return f, nil
}

func windowsContent(r record) (any, error) {
	b, err := r.bytes("data")
	switch {
	case err != nil:
		return nil, err
	case len(b) > maxContent:
		return nil, fmt.Errorf("the file is longer than the %d bytes that a spec reads", maxContent)
	case r.yes("raw"), len(b) > 1 && b[0] == 0x30 && b[1] >= 0x80: // DER, in which every byte counts
		return string(b), nil
	}
	return decodeText(b), nil
}

func windowsHosts(all []record, subjects []string) (facts, error) {
	if err := common(all); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("the machine gave no answer")
	}
	if err := all[0].err(); err != nil {
		return nil, err
	}
	b, err := all[0].bytes("data")
	if err != nil {
		return nil, err
	}
	return hostsFile.read(answer{out: []byte(decodeText(b))}, subjects)
}

// Rights of files, as Windows numbers them.
const (
	genericAll     = 0x10000000
	genericExecute = 0x20000000
	genericWrite   = 0x40000000
	genericRead    = 0x80000000
)

// allowed goes through an access list as Windows does: the first rule about a
// right decides.
func allowed(r record, right uint32) (bool, error) {
	if err := r.need("sids", "rules"); err != nil {
		return false, err
	}
	sids := r.list("sids")
	for _, rule := range r.records("rules") {
		if err := rule.need("sid", "rights", "allow", "only"); err != nil {
			return false, err
		}
		if rule.yes("only") || !slices.Contains(sids, rule.text("sid")) {
			continue
		}
		n, err := strconv.ParseInt(rule.text("rights"), 10, 64)
		if err != nil {
			return false, fmt.Errorf("not a rule's rights: %s", Clean(rule.text("rights")))
		}
		have := uint32(n)
		for generic, means := range map[uint32]uint32{genericAll: 0x1f01ff, genericRead: 0x1, genericWrite: 0x2, genericExecute: 0x20} {
			if have&generic != 0 {
				have |= means
			}
		}
		if have&right != 0 {
			return rule.yes("allow"), nil
		}
	}
	return false, nil
}

// everyone is what the access list gives to all: the bits of others' mode.
type everyone uint32

func accessRules(r record) (any, error) {
	var bits everyone
	for right, bit := range map[uint32]everyone{0x1: 4, 0x2: 2, 0x20: 1} {
		ok, err := allowed(r, right)
		if err != nil {
			return nil, err
		}
		if ok {
			bits |= bit
		}
	}
	return bits, nil
}

func mayUse(right uint32) func(record) (any, error) {
	return func(r record) (any, error) { return allowed(r, right) }
}

func windowsInterfaces(all []record, subjects []string) (facts, error) {
	if err := complete(all); err != nil {
		return nil, err
	}
	result := facts{}
	for _, s := range subjects {
		result[s] = missing("no such interface")
		for _, r := range all {
			if r.yes("whole") || !strings.EqualFold(r.text("name"), s) {
				continue
			}
			i := netDevice{state: map[string]string{"1": "up", "2": "down", "3": "testing", "5": "dormant", "6": "not present", "7": "down, as a lower layer is"}[r.text("state")], flags: 1, mtu: r.text("mtu")}
			if i.state == "" {
				result[s] = errors.New("the machine does not say the interface's state")
				break
			}
			if n, err := strconv.ParseInt(r.text("speed"), 10, 64); err == nil && n > 0 {
				i.speed = strconv.FormatInt(n/1e6, 10)
			}
			for _, a := range r.list("addrs") {
				addr, bits, _ := strings.Cut(a, "/")
				addr, _, _ = strings.Cut(addr, "%")
				p, err := netip.ParsePrefix(addr + "/" + bits)
				if err != nil {
					return nil, fmt.Errorf("not an address: %s", Clean(a))
				}
				i.addrs = append(i.addrs, p)
			}
			result[s] = i
		}
	}
	return result, nil
}

func windowsRoutes(all []record, subjects []string) (facts, error) {
	if err := complete(all); err != nil {
		return nil, err
	}
	out := []route{}
	for _, r := range all {
		if r.yes("whole") {
			continue
		}
		to, err := netip.ParsePrefix(r.text("to"))
		hop, _, _ := strings.Cut(r.text("via"), "%")
		via, err2 := netip.ParseAddr(hop)
		metric, err3 := strconv.ParseUint(r.text("metric"), 10, 64)
		if errors.Join(err, err2, err3) != nil {
			return nil, fmt.Errorf("not a route: %s via %s", Clean(r.text("to")), Clean(r.text("via")))
		}
		if via.IsUnspecified() {
			via = netip.Addr{}
		}
		out = append(out, route{to: to, gateway: via, device: r.text("dev"), metric: metric})
	}
	result := facts{}
	for _, s := range subjects {
		result[s] = out
	}
	return result, nil
}

func windowsAddresses(r record) (any, error) {
	var out []string
	for _, s := range r.list("addrs") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("not an address: %s", Clean(s))
		}
		if s = a.WithZone("").String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the machine gave no answer")
	}
	return out, nil
}

func windowsHotFixes(all []record, subjects []string) (facts, error) {
	if err := complete(all); err != nil {
		return nil, err
	}
	result := facts{}
	for _, s := range subjects {
		result[s] = missing("not installed")
		for _, r := range all {
			if strings.EqualFold(r.text("id"), s) {
				result[s] = Clean(r.text("description"))
			}
		}
	}
	return result, nil
}

func windowsRegistryValue(r record) (any, error) {
	v := registryValue{kind: strings.ToLower(r.text("kind"))}
	if v.kind == "multistring" {
		v.list = r.list("list")
		return v, r.need("list")
	}
	v.text = r.text("text")
	return v, r.need("kind", "text")
}

func windowsFirewall(all []record, subjects []string) (facts, error) {
	if err := complete(all); err != nil {
		return nil, err
	}
	result := facts{}
	for _, s := range subjects {
		var rules []firewallRule
		for _, r := range all {
			if r.yes("whole") || !strings.EqualFold(r.text("name"), s) {
				continue
			}
			if err := r.need("enabled", "direction", "action", "protocol"); err != nil {
				return nil, err
			}
			rules = append(rules, firewallRule{
				enabled: r.yes("enabled"), inbound: r.text("direction") == "1", allow: r.text("action") == "1", protocol: r.text("protocol"), ports: r.text("ports"),
			})
		}
		result[s] = missing("no such rule")
		if len(rules) > 0 {
			result[s] = rules
		}
	}
	return result, nil
}

func windowsWebsite(r record) (any, error) {
	if err := r.need("enabled", "bindings", "apps"); err != nil {
		return nil, err
	}
	w := website{enabled: r.yes("enabled"), state: r.text("state")}
	if w.state == "" {
		w.noState = fmt.Errorf("IIS did not say the website's state: %s", Clean(r.text("nostate")))
	}
	for _, b := range r.records("bindings") {
		w.bindings = append(w.bindings, siteBinding{b.text("protocol"), b.text("info")})
	}
	for _, a := range r.records("apps") {
		app := siteApp{path: a.text("path"), pool: a.text("pool")}
		for _, d := range a.records("dirs") {
			app.dirs = append(app.dirs, [2]string{d.text("path"), d.text("at")})
		}
		w.apps = append(w.apps, app)
	}
	return w, nil
}
