# A small service. It reads a version from its folder at its start, and sends it to each client.
#
# It is in Perl, which starts in a few milliseconds and is on each Debian. It exits with status 78 if its port is in use,
# and with 3 if its version is one that cannot start.
use strict;
use Socket;

my ($folder, $port) = @ARGV;
open(my $file, '<', "$folder/version") or exit 4;
chomp(my $version = <$file>);
exit 3 if -e "$folder/$version.broken";
socket(my $server, PF_INET, SOCK_STREAM, getprotobyname('tcp')) or exit 4;
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, pack('l', 1));
bind($server, sockaddr_in($port, INADDR_LOOPBACK)) or exit 78;
listen($server, 16);
$SIG{PIPE} = 'IGNORE';
while (accept(my $client, $server)) {
    syswrite($client, "$version\n");
    close($client);
}
