# Ends what the demo started and removes what it wrote, once the demo is gone, however it went: standard
# input is a pipe that the demo holds open, and a process that is killed closes its pipes too.
#
#   QUIT 4711      this process is ended then, with this signal
#   KILL 4712
#   forget 4711    the demo has ended it itself
#   remove /path   this is removed then, with all that is in it

processes=
while IFS=' ' read -r verb what; do
    case $verb in
        QUIT | KILL) processes="$processes $verb:$what" ;;
        forget)
            others=
            for process in $processes; do
                [ "${process#*:}" = "$what" ] || others="$others $process"
            done
            processes=$others
            ;;
        remove) set -- "$@" "$what" ;;
    esac
done

for process in $processes; do
    kill -"${process%%:*}" "${process#*:}" 2>/dev/null
done
# What is still written to cannot be removed for good.
patience=100
for process in $processes; do
    while kill -0 "${process#*:}" 2>/dev/null && [ "$patience" -gt 0 ]; do
        sleep 0.1
        patience=$((patience - 1))
    done
done
[ $# -eq 0 ] || rm -rf -- "$@"
