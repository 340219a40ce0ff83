# The options of a script, taken from the comment at its beginning. compare.sh and many.sh source this.
#
# `#   --some-thing N` there is an option with a number, `#   --some-thing FILE` one with any value; the value goes into
# the variable `some_thing`. The comment ends before the line that begins with `set`, and is what --help prints.

# Words of the command line that are no options.
arguments=()

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit "$1"
}

# refuse TEXT: ends the script before it has done anything.
refuse() {
    echo "${0##*/}: $1" >&2
    exit 2
}

take_options() {
    local value name
    while (($#)); do
        case $1 in
        -h | --help) usage 0 ;;
        -*)
            value=$(awk -v option="$1" '$1 == "#" && $2 == option { print $3; exit }' "$0")
            [[ -n $value ]] || refuse "there is no option $1: see ${0##*/} --help"
            (($# > 1)) || refuse "$1 takes a value: $value"
            if [[ $value == N && ! $2 =~ ^(0|[1-9][0-9]*)$ ]]; then refuse "$1 takes a number, not '$2'"; fi
            name=${1#--}
            printf -v "${name//-/_}" %s "$2"
            shift
            ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
}

# one_of WHAT LIST WORD...: refuses a word that is not in the list, which has spaces in between.
one_of() {
    local what=$1 list=$2 word
    shift 2
    for word in "$@"; do
        case " $list " in *" $word "*) ;; *) refuse "there is no $what '$word'; there are: $list" ;; esac
    done
}
