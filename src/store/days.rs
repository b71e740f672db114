//! Where an event is looked for by its subject or its user: `event_subject` and `event_user_mark` begin with the day of its
//! receipt (UTC), so that inserts stay together and do not touch a page for every subject. A look-up names the days.

/// A condition that is true of every event whose `$column` is not null, and by which a look-up of one of its values goes
/// through the index: its day, as `$day` has it, is one of those that there are. They are found by one step of the index
/// each, from day to day.
macro_rules! any_day {
    ($day:literal, $column:literal, $open:literal, $close:literal) => {
        concat!(
            $day,
            $open,
            "with recursive days (day) as (
                select earliest.day
                from (select ",
            $day,
            " as day from event where ",
            $column,
            " is not null order by 1 limit 1) as earliest
                union all
                select (
                    select ",
            $day,
            " from event
                    where ",
            $column,
            " is not null and ",
            $day,
            " > days.day
                    order by 1
                    limit 1
                )
                from days
                where days.day is not null
            )
            select day from days where day is not null",
            $close
        )
    };
}
pub(super) use any_day;
