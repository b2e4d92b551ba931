# A small service: it is the version that stood in its folder when it was started, and tells it to whoever connects.
#
# Perl, because it starts in a few milliseconds, and is on every Debian. Ends with status 78 where its port is taken,
# and with 3 where its version is one that cannot start.
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
